"""Pictures as they come, made on the spot: usual, odd and broken ones; and tasks on folders of them."""

import csv
import io
import struct
import zlib

from PIL import Image

from tasks.pictures import picture_at
from tasks.spec import Task

RED, BLUE = (255, 0, 0), (0, 0, 255)


def saved(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def png(seed=0, size=(8, 8)):
    """A picture of one colour, another for each seed."""
    return saved(Image.new("RGB", size, (seed % 256, seed // 256 % 256, 7)))


def saved_at(folder, many, step):
    """Files of pictures of one colour each, as rows name them."""
    for number in range(many):
        (folder / f"{number}.png").write_bytes(png(step * number + 9))
    return [picture_at(folder / f"{number}.png") for number in range(many)]


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width=60_000, height=60_000):
    """A PNG of a few bytes whose header promises 3.6 billion pixels; there is nothing to decode."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def half_a_tiff():
    """Of which Pillow warns when it is opened: its tags stood at the end."""
    whole = saved(Image.effect_noise((40, 40), 60).convert("RGB"), "TIFF", compression="tiff_lzw")
    return whole[: len(whole) // 2]


def rotated(form="JPEG"):
    """Red left of blue, as a camera keeps it that was turned: stored as red above blue, with the note to turn it."""
    image = Image.new("RGB", (16, 32), RED)
    image.paste(BLUE, (0, 16, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 8  # turn by 90 degrees against the clock
    return saved(image, form, exif=exif, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))


def animated(form):
    frames = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)]
    return saved(
        frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
    )


def tiff(values, bits, photometric=1):
    """Grey of 16 or 12 bits, one row; photometric 0: 0 is white."""
    if bits == 16:
        row = struct.pack(f"<{len(values)}H", *values)
    else:
        packed = int("".join(f"{value:0{bits}b}" for value in values), 2) << (-len(values) * bits % 8)
        row = packed.to_bytes(-(-len(values) * bits // 8), "big")
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(row)}
    start = 8 + len(row) + len(row) % 2
    head = struct.pack("<2sHI", b"II", 42, start) + row.ljust(start - 8, b"\0") + struct.pack("<H", len(tags))
    return head + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()) + bytes(4)


def see_through(mode):
    """Left half red, right half fully transparent."""
    image = Image.new("RGBA", (8, 8), (*RED, 255))
    image.paste((*BLUE, 0), (4, 0, 8, 8))
    if mode != "P":
        return saved(image.convert(mode))
    indexed = Image.new("P", (8, 8), 0)
    indexed.putpalette([*RED, *BLUE])
    indexed.paste(1, (4, 0, 8, 8))
    return saved(indexed, transparency=1)


def sixteen_bits(form="PNG"):
    """Grey of 16 bits: 0x8000 left, 0xFFFF right."""
    image = Image.new("I;16", (8, 8), 0x8000)
    image.paste(0xFFFF, (4, 0, 8, 8))
    return saved(image, form)


BLOCK = {
    "template": "Question: {question}\nAnswer:",
    "verbalizer": {"no": "no", "yes": "yes"},
    "source": {"kind": "file", "path": "rows.csv", "picture": "file", "label": "answer"},
}


def folder_of(path, pictures=60, questions=3, name="rows.csv", first=0):
    """A folder of pictures with a csv: of each picture several questions, which others are asked about too."""
    path.mkdir(exist_ok=True)
    with (path / name).open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("file", "question", "answer"))
        for number in range(first, first + pictures):
            (path / f"{number}.png").write_bytes(png(number))
            for ask in range(questions):
                out.writerow((f"{number}.png", f"is it kind {ask}?", ("no", "yes")[(number + ask) % 2]))
    return path


def task_of(folder, **changes):
    source = BLOCK["source"] | changes.pop("source", {})
    return Task.build("mine", BLOCK | changes | {"source": source}, "test").rooted(folder)


def pictures_of(rows):
    return {row.picture.sha256 for row in rows}
