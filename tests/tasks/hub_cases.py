"""Rows of hub_rows as the catalogue must format them, with guesses and their scores, all worked out by hand."""

from dataclasses import dataclass

STORM = "Sent 1: The storm came at noon. Sent 2: It broke two masts and a sail."


@dataclass
class Case:
    """Rows as (source text, target in words, target as the paper trains it), guesses for them, their scores in percent.

    Question answering has one target; its third entry holds all right answers, joined by "|".
    """

    sizes: tuple[
        int, ...
    ]  # rows of the hub's splits that the task names: training, validation and, if it names one, test
    rows: list[tuple[str, str, str]]
    guesses: list[str]
    scores: dict[str, float]


CLASSES = {
    "mnli": Case(
        (9, 3, 4),
        [
            ("premise: The lake froze overnight. hypothesis: The lake turned to ice.", "yes", "0"),
            ("premise: Ann sings well. hypothesis: Ann is a teacher.", "maybe", "1"),
            ("premise: The cup is empty. hypothesis: The cup is full of tea.", "no", "2"),
            ("premise: Uh-huh, we went there twice. hypothesis: We have been there.", "yes", "0"),
        ],
        ["yes", "no", "no", "yes"],
        {"accuracy": 75},
    ),
    "qqp": Case(
        (6, 4),
        [
            ("question1: How old is the Earth? question2: What is the age of the Earth?", "equivalent", "1"),
            ("question1: How far is the Moon? question2: How far is Mars?", "different", "0"),
            ("question1: Can cats swim? question2: Are cats able to swim?", "equivalent", "1"),
            ("question1: Where is Oslo? question2: Where is Bergen?", "different", "0"),
        ],
        ["equivalent", "different", "different", "different"],
        {"accuracy": 75, "f1": 200 / 3},  # precision 1, recall 1/2
    ),
    "qnli": Case(
        (6, 4),
        [
            ("question: Who led the expedition? sentence: The expedition was led by Nansen.", "yes", "0"),
            ("question: Which metal is used? sentence: The factory employs 200 people.", "no", "1"),
        ],
        ["yes", "yes"],
        {"accuracy": 50},
    ),
    "sst2": Case(
        (6, 4),
        [
            ("sentence: it 's a charming and often affecting journey .", "positive", "1"),
            ("sentence: unflinchingly bleak and dull", "negative", "0"),
        ],
        ["positive", "positive"],
        {"accuracy": 50},
    ),
    "stsb": Case(
        (6, 6),
        [
            ("sentence1: The bus is late. sentence2: He likes cheese.", "0.0", "0.0"),
            ("sentence1: A woman cooks. sentence2: A woman eats.", "2.0", "2.0"),
            (
                "sentence1: A man with a hard hat is dancing. sentence2: A man wearing a hard hat is dancing.",
                "5.0",
                "5.0",
            ),
        ],
        ["0.0", "5.0", "2.0"],
        # Grades 0 2 5 against 0 5 2: covariance 20 - 49/3 over variance 29 - 49/3.
        # Ranks 1 2 3 against 1 3 2: 1 - 6 * 2 / (3 * 8).
        {"pearson": 100 * 11 / 38, "spearman": 50},
    ),
    "mrpc": Case(
        (6, 6),
        [
            ("sentence1: She resigned on Monday . sentence2: On Monday she stepped down .", "equivalent", "1"),
            ("sentence1: The vote is today . sentence2: The vote was last week .", "different", "0"),
            ("sentence1: Two ships collided . sentence2: A collision involved two ships .", "equivalent", "1"),
            ("sentence1: Exports grew . sentence2: Imports grew .", "different", "0"),
        ],
        ["equivalent", "equivalent", "equivalent", "different"],
        {"accuracy": 75, "f1": 80},  # precision 2/3, recall 1
    ),
    "superglue-boolq": Case(
        (4, 4),
        [
            (
                "question: does ethanol take more energy make than produces "
                "passage: Ethanol -- Making ethanol takes less energy than it yields.",
                "no",
                "0",
            ),
            ("question: is gold a metal passage: Gold -- Gold is a soft yellow metal.", "yes", "1"),
        ],
        ["no", "yes"],
        {"accuracy": 100},
    ),
    "superglue-cb": Case(
        (6, 6),
        [
            ("premise: She realised that the door was open. hypothesis: the door was open", "yes", "0"),
            ("premise: I do not believe it will snow. hypothesis: it will snow", "no", "1"),
            ("premise: Do you think Paul is right? hypothesis: Paul is right", "maybe", "2"),
            ("premise: We found that the bread was stale. hypothesis: the bread was stale", "yes", "0"),
        ],
        ["yes", "no", "no", "yes"],
        {"accuracy": 75, "macro_f1": 100 * (1 + 2 / 3 + 0) / 3},
    ),
    "superglue-multirc": Case(
        (6, 9),
        [
            (f"question: {question} answer: {answer} paragraph: {STORM}", word, index)
            for question, answer, word, index in [
                ("When did the storm come?", "At noon", "yes", "1"),
                ("When did the storm come?", "At night", "no", "0"),
                ("What was broken?", "Two masts", "yes", "1"),
                ("What was broken?", "A sail", "yes", "1"),
                ("What was broken?", "The rudder", "no", "0"),
            ]
        ],
        ["yes", "no", "yes", "no", "no"],
        {"multirc_f1": 80, "multirc_em": 50},  # precision 1, recall 2/3; the first of two questions is wholly right
    ),
    "superglue-wic": Case(
        (4, 4),
        [
            ("sentence1: Room and board. sentence2: He nailed board across the windows. word: board", "different", "0"),
            (
                "sentence1: The mechanic opened the hood. sentence2: Steam rose from under the hood. word: hood",
                "same",
                "1",
            ),
        ],
        ["same", "same"],
        {"accuracy": 50},
    ),
    "superglue-wsc.fixed": Case(
        (4, 4),
        [
            ("text: When it rained, * Bernard * stayed in the old barn because # he # hated rain.", "yes", "1"),
            ("text: * Bob * paid for Charlie's college education, and # he # is very grateful.", "no", "0"),
            ("text: Because # she # was late, * Ida * ran.", "yes", "1"),  # the pronoun stands first
        ],
        ["yes", "yes", "yes"],
        {"accuracy": 200 / 3},
    ),
    "winogrande": Case(
        (8, 4),
        [
            (
                "sentence: Sarah was a much better surgeon than Maria so _ always got the easier cases. "
                "option0: Sarah option1: Maria",
                "second",
                "1",
            ),
            (
                "sentence: Sarah was a much better surgeon than Maria so _ always got the harder cases. "
                "option0: Sarah option1: Maria",
                "first",
                "0",
            ),
        ],
        ["second", "second"],
        {"accuracy": 50},
    ),
    "yelp-polarity": Case(
        (6, 4),
        [
            ("sentence: Contrary to other reviews, I was happy with the service.", "positive", "1"),
            ("sentence: Never again.", "negative", "0"),
            (
                "sentence: Unfortunately, the coffee was cold.\\nI will not go back.",
                "negative",
                "0",
            ),  # as the hub has it
        ],
        ["positive", "negative", "positive"],
        {"accuracy": 200 / 3},
    ),
    "scitail": Case(
        (4, 4),
        [
            ("premise: Sound needs a medium to travel. hypothesis: Sound cannot cross empty space.", "yes", "0"),
            ("premise: Granite is an igneous rock. hypothesis: Granite is expensive.", "maybe", "1"),
        ],
        ["maybe", "maybe"],
        {"accuracy": 50},
    ),
    "paws": Case(
        (4, 2, 2),
        [
            ("sentence1: Red follows blue . sentence2: Blue follows red .", "different", "0"),
            (
                "sentence1: They moved from Rome to Oslo in 1990 . sentence2: In 1990 they moved from Rome to Oslo .",
                "equivalent",
                "1",
            ),
        ],
        ["equivalent", "equivalent"],
        {"accuracy": 50},
    ),
}

# Real rows of ../shared/data/glue (the training files of cola and rte are the first rows of the hub's).
GLUE = {
    "cola": Case(
        (2000, 1043),
        [
            ("sentence: The sailors rode the breeze clear of the rocks.", "acceptable", "1"),
            ("sentence: The weights made the rope stretch over the pulley.", "acceptable", "1"),
            ("sentence: As you eat the most, you want the least.", "unacceptable", "0"),
            ("sentence: The more you would want, the less you would eat.", "unacceptable", "0"),
        ],
        ["acceptable", "unacceptable", "unacceptable", "unacceptable"],
        {"matthews": 200 / 12**0.5},  # 1 true and no false positive, 2 true and 1 false negative
    ),
    "rte": Case(
        (500, 277),
        [
            (
                "sentence1: Steve Jobs was attacked by Sculley and other Apple executives for not delivering enough "
                "hot new products and resigned from the company a few weeks later. "
                "sentence2: Steve Jobs worked for Apple.",
                "yes",
                "0",
            ),
            (
                "sentence1: Mice given a substance found in red wine lived longer despite a fatty diet, a study shows. "
                "sentence2: Mice fed with red wine lived longer despite a fatty diet.",
                "no",
                "1",
            ),
        ],
        ["yes", "yes"],
        {"accuracy": 50},
    ),
    "wnli": Case(
        (518, 71),
        [
            (
                "sentence1: The drain is clogged with hair. It has to be cleaned. "
                "sentence2: The hair has to be cleaned.",
                "no",
                "0",
            ),
            (
                "sentence1: Jane knocked on Susan's door but she did not answer. sentence2: Susan did not answer.",
                "yes",
                "1",
            ),
        ],
        ["no", "yes"],
        {"accuracy": 100},
    ),
}
