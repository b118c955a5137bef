"""Build the tokenizer that generated checkpoints carry (``engine/data/tokenizer*.json``).

Run it from anywhere, with the package's ``tokenizers`` dependency installed:

    python tools/build_tokenizer.py            # write both files
    python tools/build_tokenizer.py --check    # exit 1 if they differ from what would be written

The result depends only on this file, the search sample and the installed ``tokenizers``: running it
twice gives the same bytes. Token ids are part of what recorded scores depend on, so rebuild on purpose,
not by habit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PACKAGE = Path(__file__).resolve().parent.parent / "pytest_multiitem"
SAMPLE = PACKAGE / "data" / "search_sample.jsonl"
TARGET = PACKAGE / "engine" / "data"

MERGES = 2_000
PINNED = {"Yes": 9_454, "No": 2_753}
#: The labels of Qwen3-Reranker: no word of the training text is to become rarer for them, so their merges come last.
APPENDED = {"yes": (("y", "es"), 9_693), "no": (("n", "o"), 9_694)}
SPECIAL = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645}

ENGLISH = """
A search engine first collects pages that share words with the question, and then a second, slower model
reads each page together with the question and decides how well they fit. The second step is called
reranking. It is slow because the model has to read everything again for each candidate, although the
question is always the same. If five hundred candidates are scored for one question, the question is read
five hundred times. It is natural to ask whether it could be read once.

One way is to put the question and all of the candidates into one long sequence, with a separator between
them, and to tell the model which parts may look at which other parts. Every candidate may look at the
question and at itself, but never at another candidate. When this works, the score of a candidate is the
same as if it had been alone. When it does not work, the score of a candidate changes when its neighbours
change, and nobody notices, because the number still looks like a number between zero and one.

The only way to know is to measure. Take a request, score it, change one candidate, and score it again.
The scores of the other candidates must not move by more than rounding explains. Change the order, and
the scores must follow the candidates. Take some of them away, and the rest must stay the same. Put in an
empty candidate, a very long candidate, the same candidate twice. Then compare with the slow way, in which
each candidate is scored on its own, and say how far apart the two are.

People who work with computers learn to distrust a test that has never failed. A good test should be shown
a broken thing first, and it should say that the thing is broken. Only after that does it mean something
when the test passes. The same holds for scales, for thermometers and for smoke alarms: you check them
against a known weight, a known temperature or a little smoke.

The morning was cold and clear. They walked down from the village to the river, past the old mill and the
garden where the apple trees stood in long rows. Her brother carried the basket; she had the map, the
letters and a small book about birds. Nobody spoke until they had crossed the bridge. On the other side
the road divided, and a woman who was repairing a fence told them that the left branch was shorter, while
the right one was better in wet weather. They thanked her and took the longer way.

What should I do if my order has not arrived? Please wait until the end of the third working day, because
parcels are sometimes delayed at the weekend. If nothing has come by then, write to customer service with
your order number, your name and your address. We will ask the carrier where the parcel is, and we will
send a new one or return your money, whichever you prefer. Where can I find my order number? It is in the
message that we sent you when you placed the order. Can I change the address? Yes, as long as the parcel
has not left our warehouse. Do you deliver to other countries? No, not at the moment.

Water boils at 100 degrees at sea level and at about 90 degrees on a mountain of 3,000 metres. Iron is
heavier than aluminium, gold is heavier than lead, and oil floats on water. Light needs eight minutes from
the sun to the earth. A year has 365 days, and every fourth year has one more, except that three of four
full centuries do without it. Most plants make sugar from water, air and light. The heart of an adult
beats between 60 and 80 times in a minute while resting, and faster during exercise, fever or fear.

To make a simple bread, mix 500 grams of flour with 350 millilitres of warm water, ten grams of salt and
a little yeast. Knead the dough for ten minutes, cover it and leave it in a warm place until it has doubled
in size. Shape it, let it rise again for half an hour, and bake it in a very hot oven for about forty
minutes. It is done when it sounds hollow if you knock on the bottom. Let it cool before you cut it.

The contract begins on the first day of the month and may be ended by either party in writing with three
months' notice. Payment is due within fourteen days of the date of the invoice. If a part of this agreement
is not valid, the other parts remain in force. Changes must be made in writing. The parties will try to
settle any dispute between themselves before they go to court.

import json
import sys

def read_items(path):
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)

def main():
    total = 0
    for item in read_items(sys.argv[1]):
        if item["score"] is None:
            continue
        total += item["score"]
    print(f"total: {total}")
    return 0

if __name__ == "__main__":
    sys.exit(main())

Dear Sir or Madam, thank you for your letter of 12 March. I am writing to let you know that we would like
to accept your offer, provided that the work can be finished before the summer. Could you please tell us
how many people will be needed, which tools you bring yourself and whether the price includes the material?
I look forward to hearing from you. Yours faithfully, the secretary of the society.
"""

COMMON_WORDS = """
about above across act add afraid after again against age ago agree air all allow almost alone along
already also always among amount animal another answer any anyone anything appear area arm around arrive
art ask attack aunt away baby back bad bag ball bank base bath beautiful became because become bed been
before began begin behind believe below best better between big bit black blood blue board boat body bone
born both bottom bought bowl box boy branch bread break breakfast bright bring brother brought brown
brush build building burn business busy buy call came camera capital captain car card care careful carry
case catch cause centre certain chair chance change character cheap check child children choose church
circle city class clean clear climb clock close cloth cloud coast coat cold collect colour come common
company compare complete computer condition consider contain continue control cook cool copy corner
correct cost could count country course cover create cross crowd cry cup current cut daily damage dance
danger dark data daughter day dead deal dear death decide deep degree depend describe desert design desk
detail develop difference different difficult dinner direction discover discuss disease distance divide
doctor does door double doubt down draw dream dress drink drive drop during dust each early earth east
easy eat edge education effect eight either electric else empty end energy engine enjoy enough enter
equal escape even evening event ever every everyone everything exact example except expect experience
explain express extra eye face fact fail fair fall family famous far farm fast father favour fear feel
few field fight figure fill final find fine finger finish fire first fish five floor flower fly follow
food foot force foreign forest forget form forward four free fresh friend from front fruit full funny
further future game garden gave general gentle girl give glad glass goes gold gone good government great
green ground group grow guess guest guide hair half hall hand happen happy hard hat hate have head health
hear heart heat heavy help here high hill history hold hole holiday home hope horse hospital hotel hour
house however huge human hundred hurry hurt husband idea important inch include increase indeed industry
inside instead interest island issue job join journey judge jump just keep key kill kind king kitchen
knew know lady lake land language large last late laugh law lay lead learn least leave left leg less
lesson letter level lie life lift light like likely limit line list listen little live local long look
lose lost lot love low lunch machine main make man manner many mark market marry matter may maybe meal
mean measure meat meet member memory mention message metal method middle might mile milk mind minute miss
mistake modern moment money month moon more morning most mother mountain mouth move much music must name
narrow nation nature near necessary neck need neighbour never news next nice night nine noise none north
nose note nothing notice now number object ocean offer office often old once one only open opposite
orange order ordinary other our outside over own page pain paint pair paper parent park part party pass
past path pay peace people perfect perhaps period person picture piece place plain plan plant play please
point police poor popular position possible power practice prepare present president press pretty price
print problem process produce promise protect prove provide public pull purpose push put quality quarter
queen question quick quiet quite race radio rain raise rather reach read ready real really reason receive
record red remain remember remove repeat reply report rest result return rich ride right ring rise river
road rock roof room round rule run safe said sail salt same sand save say scale school science sea season
seat second secret section see seem sell send sense sentence separate serious serve service seven several
shade shape share sharp sheet ship shirt shoe shop short should shoulder shout show shut side sign
silence silver similar simple since sing single sister sit six size skin sky sleep slow small smell smile
smoke snow social soft soil soldier some someone something sometimes son song soon sort sound south space
speak special speed spend spoke spot spread spring square stage stand star start state station stay steal
steel step still stone stop store storm story straight strange stream street strong student study subject
succeed such sudden sugar suggest summer sun sure surface surprise sweet swim system table take talk tall
taste teach team tell ten test than thank that their them then there these they thick thin thing think
third this those though thought thousand three through throw ticket tie time tired today together
tomorrow tonight too tool top total touch toward town track trade train travel tree trip trouble true
trust try turn twelve twenty two under understand until upon use useful usual valley value various very
village visit voice wait walk wall want war warm wash watch water wave way weak wear weather week weight
welcome well went were west what wheel when where whether which while white who whole whose why wide wife
wild will win wind window winter wise wish with within without woman wonder wood word work world worry
worse would write wrong year yellow yesterday yet young
"""


def corpus() -> list[str]:
    """The training text: the search sample, ordinary English, and the labels on their own."""
    texts = [ENGLISH, COMMON_WORDS, COMMON_WORDS]
    for line in SAMPLE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts += [row["query"], *row["items"]]
    # The labels must become single tokens, so they have to be frequent as words without a space before.
    for label in PINNED:
        texts += [label] * 500
    return texts


def trained() -> dict[str, Any]:
    """The tokenizer as trained, in the form of its JSON file: ids are still the trainer's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + MERGES, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    result: dict[str, Any] = json.loads(tokenizer.to_str())
    return result


def build() -> dict[str, Any]:
    """The final tokenizer: ids renumbered without holes, except for the pinned and the special tokens."""
    tokenizer = trained()
    model = tokenizer["model"]
    missing = [label for label in PINNED if label not in model["vocab"]]
    if any(label in model["vocab"] for label in APPENDED):
        raise SystemExit(f"training already gives a token for one of {[*APPENDED]}: pin it instead")
    if missing or len(model["merges"]) != MERGES:
        raise SystemExit(f"training gave {len(model['merges'])} merges and no token for {missing}")
    plain = sorted((token for token in model["vocab"] if token not in PINNED), key=model["vocab"].get)
    # A special token keeps its id on loading only if the model's own vocabulary has it as well.
    appended = {label: index for label, (_, index) in APPENDED.items()}
    vocab = {token: index for index, token in enumerate(plain)} | PINNED | appended | SPECIAL
    model["vocab"] = dict(sorted(vocab.items(), key=lambda entry: entry[1]))
    model["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    model["merges"] += [" ".join(pair) for pair, _ in APPENDED.values()]
    tokenizer["added_tokens"] = [{"id": index, **_special(token)} for token, index in SPECIAL.items()]
    return tokenizer


def config() -> dict[str, Any]:
    """``tokenizer_config.json``: what Hugging Face's AutoTokenizer needs besides the tokenizer."""
    return {
        "added_tokens_decoder": {str(index): _special(token) for token, index in SPECIAL.items()},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 40_960,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _special(token: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": token, **flags}


def files() -> dict[Path, bytes]:
    """Every file this script writes, with its content."""
    compact = json.dumps(build(), ensure_ascii=False, separators=(",", ":")) + "\n"
    readable = json.dumps(config(), indent=2, sort_keys=True) + "\n"
    return {
        TARGET / "tokenizer.json": compact.encode(),
        TARGET / "tokenizer_config.json": readable.encode(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    check = parser.parse_args().check
    changed = 0
    for path, content in files().items():
        same = path.is_file() and path.read_bytes() == content
        changed += not same
        if not same and not check:
            path.write_bytes(content)
        state = "unchanged" if same else ("would change" if check else "written")
        sys.stdout.write(f"{path.name}: {len(content)} bytes, {state}\n")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
