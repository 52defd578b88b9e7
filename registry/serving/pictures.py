"""A row's picture as it is given, and whether those that answer can see it. What is read of it is `tasks`' alone."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from dept.adapters.adapter import Adapter
from dept.adapters.picture_map import look
from dept.backbones.backbone import Backbone
from dept.backbones.picture_encoder import encoded, encoder_of
from dept.backbones.seeing import SeeingBackbone
from dept.baselines.answering import Answering, seers_of
from dept.baselines.single import Single
from dept.batches.tokenise import Row, block_of
from infra.errors import InputError
from tasks.picture_reader import picture_of_image, plain_picture, read_picture, size_of
from tasks.pictures import MOST_BYTES, HeldPicture, Picture, payload_of, picture_at, picture_of

_SHOWN = 60  # characters of a value that a message quotes
_DECODED = 20_000.0  # pixels that are decoded in the time of a token, about
_BASE64 = "base64, or data:image/png;base64,... (`base64 -w 0 FILE` prints it)"


def picture_of_cell(cell: Any, column: str, files: bool) -> Picture:
    """The picture that a cell of a table means, its header looked at.

    Args:
        cell: bytes, a picture of Pillow, a `tasks.pictures.Picture`, or a text: a data: URI (RFC 2397), and by `files`
            the name of a file or base64. A path by its type is a file as well.
        column: heads errors, and names pictures that lie in no file.
        files: names of files are read. Without, whoever asks may be anybody, and nothing of this machine is opened.

    Raises:
        InputError: none of these, or bytes that are no picture, or of too large a one.
    """
    try:
        found = _meant(cell, column, files)
        size_of(payload_of(found), found.path)
    except InputError as error:
        said = str(error)
        raise error if said.startswith(column) else InputError(f"{column}: {said}") from None
    return found


def _meant(cell: Any, column: str, files: bool) -> Picture:
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return picture_of(bytes(cell), column)
    if _is_image(cell):
        return picture_of_image(cell, column)
    if isinstance(cell, str) and cell[:5].lower() == "data:":
        head, comma, body = cell.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise InputError(f"{column} is a data: URI that is not in base64. Remedy: send it as {_BASE64}")
        return _of_base64(body, column, f"the base64 of {column} is damaged. Remedy: send it as {_BASE64}")
    if files and isinstance(cell, Picture):
        return cell
    if files and isinstance(cell, (str, Path)) and str(cell).strip():
        return picture_at(cell)
    if not files and isinstance(cell, str):
        what = f"{column} is {cell[:_SHOWN]!r}{'...' if len(cell) > _SHOWN else ''}"
        no = f"{what}, which is no base64, and no file is opened for a request. Remedy: send its bytes as {_BASE64}"
        return _of_base64(cell, column, no)
    wanted = "its file's name, its bytes, or a picture of Pillow" if files else f"its bytes as {_BASE64}"
    raise InputError(f"{column} is {repr(cell)[:_SHOWN]}, no picture. Remedy: give {wanted}")


def _of_base64(text: str, column: str, otherwise: str) -> HeldPicture:
    if len(text) > 2 * MOST_BYTES:
        raise InputError(f"{column}: its bytes are larger than {MOST_BYTES >> 20} MiB. Remedy: another picture")
    try:
        payload = base64.b64decode(text.encode("ascii").translate(None, b" \t\r\n\v\f"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(otherwise) from error
    if not payload:
        raise InputError(otherwise)
    return picture_of(payload, column)


def _is_image(cell: Any) -> bool:
    if not any(kind.__module__.partition(".")[0] == "PIL" for kind in type(cell).__mro__):
        return False
    from PIL import Image

    return isinstance(cell, Image.Image)


def check_eyes(adapter: Answering, backbone: Backbone | None) -> None:
    """Refuse what is to see pictures and cannot: load picture encoders, ask whether the backbone reads any.

    Raises:
        InputError: an encoder that is not in reach or not the one of training, or a backbone that reads none.
    """
    for one in seers_of(adapter):
        sees = one.sees if isinstance(one, Adapter) else None
        if sees is not None and sees.encoder and backbone is not None:
            encoder_of(sees, backbone.device)
        elif sees is None and (backbone is None or not backbone.reads_pictures):
            name, why = ("", "") if backbone is None else (f" {backbone.name}", backbone.blind)
            raise InputError(
                f"adapter: it answers rows with pictures, and the backbone{name} reads none here "
                f"({why or 'its processor is missing'}). Remedy: the one that it was trained on, with its processor"
            )


def positions_of(member: Single, backbone: Backbone) -> int:
    """About how many positions a picture takes of a member that sees it.

    Of a backbone's own eyes those of a small picture: its processor would be run on a blank of whatever size a header
    claims, and that may cost seconds and gigabytes.
    """
    shape = member.config if isinstance(member, Adapter) else member.shape
    try:
        return len(block_of(backbone.tokens, shape, plain_picture()).ids)
    except InputError:  # it is said where a picture is looked at
        return 0


def cost_of_decoding(picture: Picture) -> float:
    """About as many tokens as are computed in the time in which a picture is decoded, by its header."""
    width, height = size_of(payload_of(picture), picture.path)
    return width * height / _DECODED


def see(member: Single, backbone: Backbone, row: Row) -> None:
    """Make what a member needs of a row's picture, which is kept for the pass that answers; and look for its room.

    Raises:
        InputError: a picture that cannot be read, that what sees it does not take, or that leaves no positions.
    """
    if row.seen is None:
        return
    m, sees = (len(member.prompt), member.sees) if isinstance(member, Adapter) else (0, None)
    end = m + row.first + len(row.source) + max(map(len, row.candidates)) - 1
    picture, most = row.seen.picture, backbone.positions
    if most and end > most:
        raise InputError(
            f"{picture.path}: it takes {row.seen.size} positions, with its text and what stands before it {end}, and "
            f"backbone {backbone.name} has {most}. Remedy: a smaller picture, or a shorter text"
        )
    if sees is not None and sees.encoder:
        encoded([picture], sees, backbone.device)
    elif sees is not None:
        look([picture], sees)
    elif isinstance(backbone, SeeingBackbone) and backbone.way.pictures != "model":
        backbone.look([picture])
    else:
        read_picture(picture)
