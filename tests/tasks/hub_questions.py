"""As hub_cases.py, of tasks that answer questions by a text."""

from tests.tasks.hub_cases import Case

QUESTIONS = {
    "squad": Case(
        (3, 2),
        [
            ("question: Which team won? context: Denver won the title in 2016.", "Denver", "Denver"),
            (
                "question: Where was the game played? context: The game was played at Levi's Stadium, Santa Clara.",
                "Levi's Stadium",
                "Levi's Stadium|Levi's Stadium, Santa Clara|Santa Clara",
            ),
        ],
        [
            "the Denver Broncos",
            "levis stadium santa clara",
        ],  # precision 1/2, recall 1; case, marks and articles do not count
        {"squad_em": 50, "squad_f1": 50 * (2 / 3 + 1)},
    ),
    "superglue-record": Case(
        (3, 2),
        [
            (
                "record query: Fans of @placeholder sang all night. entities: Oslo, Bergen "
                "passage: Oslo beat Bergen 3-1. Oslo leads the league",
                "Oslo",
                "Oslo",
            ),
            (
                "record query: The search for @placeholder ended on Friday. entities: Maria Lund, M. Lund "
                "passage: Maria Lund and M. Lund are one person. Police spoke to Maria Lund",
                "Maria Lund",
                "Maria Lund|M. Lund",
            ),
        ],
        ["oslo", "Lund"],
        {"squad_em": 50, "squad_f1": 50 * (1 + 2 / 3)},
    ),
    "nq": Case(
        (3, 2),
        [
            (
                "question: how many episodes are there context: <P> The series has twelve episodes . </P>",
                "twelve",
                "twelve|twelve episodes",
            ),
            (
                "question: where did the capital move context: <P> The capital moved to Turku in 1812 . </P>",
                "Turku",
                "Turku",
            ),
        ],
        ["twelve episodes", "Turku in 1812"],  # precision 1/3, recall 1
        {"squad_em": 50, "squad_f1": 75},
    ),
    "hotpotqa": Case(
        (3, 2),
        [
            ("question: Where is Old Mill? context: [PAR] [TLE] Old Mill [SEP] Old Mill is in York.", "York", "York"),
            (
                "question: What kind of group were The Oaks? "
                "context: [PAR] [TLE] The Oaks [SEP] The Oaks were a rock group.",
                "a rock group",
                "a rock group",
            ),
        ],
        ["York", "rock band"],
        {"squad_em": 50, "squad_f1": 75},
    ),
    "searchqa": Case(
        (3, 2),
        [
            (
                "question: It's the largest living bird "
                "context: [DOC] [TLE] Birds [PAR] The ostrich is the largest bird.",
                "ostrich",
                "ostrich|The ostrich",
            ),
            (
                "question: This chess piece may castle context: [DOC] [TLE] Chess [PAR] The king may castle.",
                "king",
                "king",
            ),
        ],
        ["Ostrich.", "the queen"],
        {"squad_em": 50, "squad_f1": 50},
    ),
    "newsqa": Case(
        (3, 2),
        [
            (
                "question: Which team won gold? context: (CNN) -- The U.S. team won gold in Oslo.",
                "The U.S. team",
                "The U.S. team|U.S.",
            ),
            ("question: What closed the school? context: (CNN) -- Fire closed the school for a week.", "Fire", "Fire"),
        ],
        ["US team", ""],
        {"squad_em": 50, "squad_f1": 50},
    ),
}
