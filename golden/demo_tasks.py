"""Problems with right answers, in plain English, made from seeds: what golden/demo-model learns and is asked.

ledger       A book of days: who is where, who has what, who is whose brother. Facts change from day to day. The
             question needs the latest state of 1 to 6 facts, and sometimes a sum or a difference.
arithmetic   A word problem of 2 to 10 steps. The reply works it out step by step.
sheet        Many word problems, then the question to solve one of them, which may stand far away.

Training and test never share a problem. A ledger is named by the facts that it begins with, a word problem by its
numbers, things and operations (not by its wording). A hash of that name decides the side: one in 16 is for tests.
Both generators draw again until the side is theirs, whatever the seed. (tests/test_demo_tasks.py)

In a text, ON and OFF surround a span that a careful reader can predict, and END is the end-of-text token.
Only Python's standard library is needed.
"""
import collections
import hashlib
import random
import re

NAMES = """Aaron Abel Adam Agnes Albert Alice Amos Anna Arthur Asa Basil Beth Boaz Bruno Caleb Carl Clara Cora Cyrus
Daniel David Deborah Dinah Dora Edith Edwin Eli Elmer Emma Enoch Esau Esther Ezra Felix Flora Frank George Gideon
Grace Hagar Hannah Harold Helen Henry Hiram Hugh Ida Irene Isaac Ivan Jacob James Jesse Joanna Job Joel John Jonah
Joseph Joshua Judith Julia Kate Laban Laura Leah Levi Linus Lois Lot Lucy Luke Lydia Mark Martha Martin Mary Micah
Miriam Moses Nadab Nathan Noah Nora Obed Olga Omar Oscar Paul Peter Philip Rachel Ralph Rebecca Reuben Rosa Rufus
Ruth Samson Samuel Sarah Saul Seth Silas Simon Stella Tamar Thomas Titus Tobias Uriah Victor Walter Wilma""".split()
PLACES = """mill farm well tower market harbor garden inn chapel forge bridge quarry orchard vineyard barn school
bakery library stable castle temple ferry camp mine meadow cellar court gate shop hall dock kiln park pond hill ford
grove palace prison tavern""".split()
ITEMS = """apples sheep coins jars ropes candles lamps books goats figs nails bricks eggs fish cups hats knives stones
barrels baskets blankets boots bowls combs drums hens horses keys ladders loaves melons needles onions pears pipes
plates ribbons sacks shells spoons swords tiles""".split()
TRADES = """baker smith miller weaver potter tailor mason carpenter shepherd fisher farmer judge teacher nurse sailor
scribe hunter painter singer cook barber brewer butcher cooper dyer guard merchant printer tanner porter""".split()
RELATIONS = "brother sister friend neighbor master cousin".split()
ADJECTIVES = "silver golden wooden iron old new white black red blue green broken".split()
OBJECTS = "ring sword crown cup book lamp chair cloak flute map mirror wheel".split()
FILLERS = """The rain fell all night.|The wind came from the north.|Nobody spoke of it again.|It was a cold
morning.|The bells rang at noon.|A dog slept by the door.|The road was dry and full of dust.|Smoke rose over the
roofs.|The sun was hot that day.|Birds sat upon the wall.|The river was high.|Children played in the street.|The
harvest was good.|The night was quiet.|Snow lay upon the hills.|A stranger passed by and said nothing.""".replace(
    "\n", " "
).split("|")

ON, OFF, END = "\x01", "\x02", "\x03"
TRAIN, TEST = "train", "test"
TEST_SHARE = 16  # one problem in so many belongs to the tests


def plain(text):
    """The text without marks."""
    return re.sub(f"[{ON}{OFF}{END}]", "", text)


def name_of(facts):
    """16 hexadecimal digits that name a problem by its content."""
    return hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def side_of(name):
    return TEST if int(name, 16) % TEST_SHARE == 0 else TRAIN


def listed(parts):
    """a; a and b; a, b and c"""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def amount(rng):
    return rng.randint(2, 99) if rng.random() < 0.65 else rng.randint(100, 900)


# -------------------------------------------------------------------------------------------------- ledgers

Question = collections.namedtuple("Question", "text work answer kind hops facts")


class Ledger:
    """People, places and things, and the sentences that say what happened to them.

    Facts live in one dictionary a kind: at[person] = place, has[person, item] = number, holds[place, item] =
    number, trade[trade] = person, kin[relation, person] = person, owner[thing] = person.
    """

    def __init__(self, rng, sentences, side, verses=(), verse_share=0.0):
        self.rng, self.verses, self.verse_share, self.sentences = rng, verses, verse_share, sentences
        while True:
            count = max(2, min(80 if sentences > 700 else 48, int(sentences / rng.uniform(4.5, 11))))
            self.people = rng.sample(NAMES, count)
            self.places = rng.sample(PLACES, max(3, min(len(PLACES), int(count * rng.uniform(0.5, 1.1)))))
            self.items = rng.sample(ITEMS, rng.randint(2, 9))
            facts = self.first_facts()
            self.name = name_of(sorted(map(repr, facts)))
            if side_of(self.name) == side:
                break
        self.at, self.has, self.holds, self.trade, self.kin, self.owner = {}, {}, {}, {}, {}, {}
        self.kin_of = collections.defaultdict(list)  # person -> the keys of kin that lead to this person
        self.stated = collections.Counter()  # (kind, key) -> how often the fact was stated
        self.last_stated = {}  # (kind, key) -> number of the sentence that said it last
        self.written = 0  # sentences
        self.text = self.write(self.grouped(facts))

    # ---- what is true at first

    def first_facts(self):
        rng, facts, things = self.rng, [], set()
        trades = rng.sample(TRADES, len(TRADES))
        for person in self.people:
            facts.append(("at", person, rng.choice(self.places)))
            if rng.random() < 0.85:
                how_many = rng.choices((1, 2, 3), (60, 28, 12))[0]
                for item in rng.sample(self.items, min(how_many, len(self.items))):
                    facts.append(("has", (person, item), amount(rng)))
            if rng.random() < 0.5 and trades:
                facts.append(("trade", trades.pop(), person))
            if rng.random() < 0.6 and len(self.people) > 2:
                other = rng.choice(self.people)
                if other != person:
                    facts.append(("kin", (rng.choice(RELATIONS), person), other))
            thing = rng.choice(ADJECTIVES) + " " + rng.choice(OBJECTS)
            if rng.random() < 0.3 and thing not in things:
                things.add(thing)
                facts.append(("owner", thing, person))
        for place in self.places:
            if rng.random() < 0.65:
                for item in rng.sample(self.items, rng.choice((1, 1, 2))):
                    facts.append(("holds", (place, item), amount(rng)))
        return facts

    def grouped(self, facts):
        """Facts in random order, as lists: most alone, some of one owner, or of two people, in one sentence."""
        rng = self.rng
        by_owner = collections.defaultdict(list)
        for fact in facts:
            kind, key, value = fact
            if kind in ("has", "holds"):
                by_owner[kind, key[0]].append(fact)
            elif kind == "at":
                by_owner[kind, value].append(fact)
            else:
                by_owner[fact].append(fact)
        groups = []
        for (kind, *_), same in by_owner.items():
            while same:
                n = rng.choice((2, 3)) if rng.random() < (0.25 if kind == "at" else 0.7) else 1
                groups.append(same[:n])
                del same[:n]
        rng.shuffle(groups)
        return groups

    def note(self, kind, key, value):
        if kind == "kin" and key not in self.kin:
            self.kin_of[value].append(key)
        getattr(self, kind)[key] = value
        self.stated[kind, key] += 1
        self.last_stated[kind, key] = self.written

    def introduce(self, group):
        """A sentence that states the facts of a group."""
        pick = self.rng.choice
        for fact in group:
            self.note(*fact)
        kind, key, value = group[0]
        if kind == "at" and len(group) > 1:
            who = listed([person for _, person, _ in group])
            return pick((f"{who} are at the {value}.", f"{who} live at the {value}.", f"{who} were seen at the {value}.",
                         f"At the {value} you find {who}."))  # fmt: skip
        if kind == "at":
            return pick((f"{key} is at the {value}.", f"{key} was first seen at the {value}.", f"{key} lives at the {value}.",
                         f"At the {value} you find {key}.", f"The {value} is where {key} lives.",
                         f"{key} spends the days at the {value}."))  # fmt: skip
        if kind in ("has", "holds"):
            owner = key[0]
            goods = listed([f"{n} {item}" for _, (_, item), n in group])
            if kind == "has":
                return pick((f"{owner} has {goods}.", f"{owner} owns {goods}.", f"{owner} keeps {goods}.",
                             f"There are {goods} that belong to {owner}.", f"To {owner} belong {goods}.",
                             f"{goods} are the property of {owner}."))  # fmt: skip
            return pick((f"The {owner} holds {goods}.", f"There are {goods} in the {owner}.", f"In the {owner} lie {goods}.",
                         f"{goods} are stored in the {owner}."))  # fmt: skip
        if kind == "trade":
            return pick((f"{value} is the {key}.", f"The {key} is {value}.", f"{value} works as the {key}.",
                         f"{value} was chosen as the {key}.", f"{value}, the {key}, is well known."))  # fmt: skip
        if kind == "kin":
            relation, person = key
            return pick((f"The {relation} of {person} is {value}.", f"{value} is the {relation} of {person}.",
                         f"{person} has a {relation}, whose name is {value}.",
                         f"{person} has a {relation} named {value}."))  # fmt: skip
        return pick((f"The {key} belongs to {value}.", f"{value} has the {key}.", f"{value} found the {key}.",
                     f"{value} is the owner of the {key}."))  # fmt: skip

    # ---- what changes

    def change(self):
        """A sentence that changes a fact; None if the one drawn would not change."""
        kind = self.rng.choices(("at", "has", "gift", "holds", "owner", "trade"), (8, 7, 2, 4, 4, 1))[0]
        facts = self.has if kind == "gift" else getattr(self, kind)
        if not facts:
            return None
        key = self.rng.choice(list(facts))
        return getattr(self, "change_" + kind)(key, facts[key])

    def change_at(self, person, old):
        new, pick = self.rng.choice(self.places), self.rng.choice
        if new == old:
            return None
        self.note("at", person, new)
        was = f"{ON} {old}{OFF}"
        return pick((f"{person} went from the{was} to the {new}.", f"{person} left the{was} for the {new}.",
                     f"{person} went to the {new}.", f"{person} came to the {new}.", f"{person} moved to the {new}.",
                     f"{person} is no longer at the{was} but at the {new}.", f"Now {person} can be found at the {new}.",
                     f"{person} walked to the {new} and stayed there.", f"{person} has been at the {new} since then."))  # fmt: skip

    def change_owner(self, thing, old):
        new, pick = self.rng.choice(self.people), self.rng.choice
        if new == old:
            return None
        self.note("owner", thing, new)
        was = f"{ON} {old}{OFF}"
        return pick((f"{old} gave the {thing} to {new}.", f"{new} took the {thing} from{was}.", f"{new} now has the {thing}.",
                     f"The {thing} went from{was} to {new}.", f"{new} bought the {thing}.",
                     f"The {thing} passed to {new}."))  # fmt: skip

    def change_trade(self, trade, old):
        new, pick = self.rng.choice(self.people), self.rng.choice
        if new == old or new in self.trade.values():
            return None
        self.note("trade", trade, new)
        was = f"{ON} {old}{OFF}"
        return pick((f"{new} is now the {trade}.", f"{new} became the {trade} in place of{was}.",
                     f"{old} is the {trade} no longer; {new} is.", f"{new} took over as the {trade}."))  # fmt: skip

    def new_number(self, old):
        """(difference, new number)"""
        k = self.rng.randint(1, 30 if self.rng.random() < 0.7 else 200)
        if self.rng.random() < 0.5 or old < 3:
            return k, min(old + k, 999)
        return k, max(old - k, 2)

    def change_has(self, key, old):
        who, item = key
        pick = self.rng.choice
        if self.rng.random() < 0.25:
            new = amount(self.rng)
            self.note("has", key, new)
            return pick((f"{who} now has {new} {item}.", f"{who} counted again and has {new} {item}.",
                         f"The {item} of {who} are now {new} in number.", f"{who} has {new} {item} by now."))  # fmt: skip
        _, new = self.new_number(old)
        k = abs(new - old)
        if k == 0:
            return None
        self.note("has", key, new)
        now = f"{ON} {new}{OFF} {item}"
        if new > old:
            return pick((f"{who} bought {k} {item} and now has{now}.", f"{who} found {k} {item} and now has{now}.",
                         f"With {k} more {item} {who} now has{now}.", f"{who} got {k} more, which makes{now}."))  # fmt: skip
        return pick((f"{who} sold {k} {item} and now has{now}.", f"{who} lost {k} {item} and now has{now}.",
                     f"{who} gave away {k} of{ON} {old}{OFF} {item} and now has{now}.",
                     f"{who} threw {k} away, which leaves{now}."))  # fmt: skip

    def change_gift(self, key, old):
        giver, item = key
        others = [p for p, i in self.has if i == item and p != giver]
        if old < 4 or not others:
            return None
        taker = self.rng.choice(others)
        k = min(self.rng.randint(1, 60), old - 2)
        left, got = old - k, self.has[taker, item] + k
        if got > 999:
            return None
        self.note("has", (giver, item), left)
        self.note("has", (taker, item), got)
        return self.rng.choice((
            f"{giver} gave {k} {item} to {taker}; {giver} now has{ON} {left}{OFF} and {taker} has{ON} {got}{OFF}.",
            f"{taker} bought {k} {item} from {giver}, so that {taker} has{ON} {got}{OFF} and {giver}{ON} {left}{OFF}.",
        ))  # fmt: skip

    def change_holds(self, key, old):
        place, item = key
        pick = self.rng.choice
        if self.rng.random() < 0.25:
            new = amount(self.rng)
            self.note("holds", key, new)
            return pick((f"The {place} now holds {new} {item}.", f"A new count found {new} {item} in the {place}."))
        _, new = self.new_number(old)
        k = abs(new - old)
        if k == 0:
            return None
        self.note("holds", key, new)
        now = f"the {place} now holds{ON} {new}{OFF} {item}"
        which = f"the {place}, which now holds{ON} {new}{OFF} {item}"
        if new > old:
            return pick((f"After {k} {item} came in, {now}.", f"{k} {item} were brought to {which}."))
        return pick((f"After {k} {item} were taken, {now}.", f"{k} {item} left {which}."))

    # ---- the book

    def sentence(self, groups, total):
        """The next sentence: a verse or a filler, a fact for the first time, or a change."""
        rng = self.rng
        if self.written < total and rng.random() < self.verse_share:
            return rng.choice(self.verses)
        if rng.random() < 0.04:
            return rng.choice(FILLERS)
        if groups and (rng.random() * (total - self.written) < len(groups) or not self.at):
            return self.introduce(groups.pop())
        changed = self.change()
        if changed:
            return changed
        return self.introduce(groups.pop()) if groups else rng.choice(FILLERS)

    def write(self, groups):
        rng, day, left_today = self.rng, self.rng.randint(1, 9), 0
        parts = [rng.choice(("The ledger of the town.", "An account of the people.", "The book of days."))]
        total = max(self.sentences, len(groups))
        while self.written < total or groups:
            line = self.sentence(groups, total)
            self.written += 1
            if left_today == 0:
                parts.append(f"\nDay {day}.")
                day += 1
                left_today = rng.randint(4, 12)
            parts.append(" " + line)
            left_today -= 1
        return "".join(parts) + "\n"

    # ---- questions

    def describe(self, depth, wanted, passed=()):
        """(words that lead to a person in `depth` steps, sentences of the steps, facts used); None if none do.

        Works backwards from the person, over nobody twice: `passed` are those on the way."""
        rng = self.rng
        if depth == 0:
            return wanted, [], []
        kin = [key for key in self.kin_of[wanted] if key[1] not in passed]
        if depth == 1:
            ways = [("trade", t) for t, p in self.trade.items() if p == wanted]
            ways += [("owner", t) for t, p in self.owner.items() if p == wanted]
            ways += [("kin", key) for key in kin]
            if not ways:
                return None
            kind, key = rng.choice(ways)
            if kind == "trade":
                return f"the {key}", [f"The {key} is {wanted}."], [(kind, key)]
            if kind == "owner":
                words = rng.choice((f"the owner of the {key}", f"the one with the {key}"))
                return words, [f"The {key} is with {wanted}."], [(kind, key)]
            return f"the {key[0]} of {key[1]}", [f"The {key[0]} of {key[1]} is {wanted}."], [(kind, key)]
        for key in rng.sample(kin, len(kin)):
            relation, person = key
            inner = self.describe(depth - 1, person, (*passed, wanted))
            if inner:
                words, steps, facts = inner
                step = f"The {relation} of {person} is {wanted}."
                return f"the {relation} of {words}", steps + [step], facts + [("kin", key)]
        return None

    KINDS = ("who", "at", "has", "there", "sum", "more", "holds")
    KIND_WEIGHTS = (1.5, 3, 4, 2, 2, 1.5, 1)
    DEPTHS, DEPTH_WEIGHTS = (0, 1, 2, 3, 4, 5), (30, 30, 18, 10, 7, 5)

    def question(self, kinds=None, depths=None):
        """A question, or None where the ledger allows none of the kind."""
        rng = self.rng
        for _ in range(40):
            kind = rng.choice(kinds) if kinds else rng.choices(self.KINDS, self.KIND_WEIGHTS)[0]
            depth = rng.choice(depths) if depths else rng.choices(self.DEPTHS, self.DEPTH_WEIGHTS)[0]
            asked = getattr(self, "ask_" + kind)(depth)
            if asked:
                return asked
        return None

    def ask_who(self, depth):
        person = self.rng.choice(self.people)
        found = self.describe(max(1, depth), person)
        if not found:
            return None
        words, steps, facts = found
        text = self.rng.choice((f"Who is {words}?", f"What is the name of {words}?", f"Name {words}."))
        return Question(text, steps, person, "who", len(steps), facts)

    def ask_at(self, depth):
        person = self.rng.choice(list(self.at))
        found = self.describe(depth, person)
        if not found:
            return None
        words, steps, facts = found
        place = self.at[person]
        text = self.rng.choice((f"Where is {words}?", f"In which place is {words}?", f"Where is {words} now?",
                                f"Where can one find {words}?", f"At which place is {words} to be found?"))  # fmt: skip
        steps = steps + [f"{person} is at the {place}."]
        return Question(text, steps, "the " + place, "at", len(steps), facts + [("at", person)])

    def ask_has(self, depth):
        if not self.has:
            return None
        person, item = key = self.rng.choice(list(self.has))
        found = self.describe(depth, person)
        if not found:
            return None
        words, steps, facts = found
        number = self.has[key]
        text = self.rng.choice((f"How many {item} does {words} have?", f"What number of {item} does {words} have?",
                                f"How many {item} belong to {words}?", f"Count the {item} of {words}."))  # fmt: skip
        steps = steps + [f"{person} has {number} {item}."]
        return Question(text, steps, str(number), "has", len(steps), facts + [("has", key)])

    def ask_there(self, depth):
        """What lies in the place where somebody is."""
        here = [(person, key) for person, place in self.at.items() for key in self.holds if key[0] == place]
        if not here:
            return None
        person, (place, item) = self.rng.choice(here)
        found = self.describe(min(depth, 4), person)
        if not found:
            return None
        words, steps, facts = found
        number = self.holds[place, item]
        text = self.rng.choice((f"How many {item} are in the place where {words} is?",
                                f"{words[0].upper() + words[1:]} is in a place. How many {item} does it hold?"))  # fmt: skip
        steps = steps + [f"{person} is at the {place}.", f"The {place} holds {number} {item}."]
        facts = facts + [("at", person), ("holds", (place, item))]
        return Question(text, steps, str(number), "there", len(steps), facts)

    def ask_holds(self, depth):
        if depth or not self.holds:
            return None
        place, item = key = self.rng.choice(list(self.holds))
        number = self.holds[key]
        text = self.rng.choice((f"How many {item} are in the {place}?", f"How many {item} does the {place} hold?",
                                f"What number of {item} lies in the {place}?"))  # fmt: skip
        return Question(text, [f"The {place} holds {number} {item}."], str(number), "holds", 1, [("holds", key)])

    def owners(self, depth, count):
        """(item, [(words, steps, facts, number)] of several people who have it)"""
        if not self.has:
            return None
        item = self.rng.choice(list(self.has))[1]
        people = [p for p, i in self.has if i == item]
        if len(people) < count:
            return None
        depths = [0] * count
        for _ in range(depth):
            depths[self.rng.randrange(count)] += 1
        owners = []
        for person, d in zip(self.rng.sample(people, count), depths):
            found = self.describe(d, person)
            if not found:
                return None
            words, steps, facts = found
            number = self.has[person, item]
            owners.append((words, steps + [f"{person} has {number} {item}."], facts + [("has", (person, item))], number))
        return item, owners

    def ask_sum(self, depth):
        found = self.owners(depth, self.rng.choice((2, 2, 2, 3)))
        if not found:
            return None
        item, owners = found
        work, total = [], 0
        for i, (_, steps, _, number) in enumerate(owners):
            work += steps
            if i:
                work.append(f"{total}+{number}={total + number}.")
            total += number
        words = listed([o[0] for o in owners])
        text = self.rng.choice((f"How many {item} do {words} have together?", f"Add up the {item} of {words}.",
                                f"What do {words} have in all, in {item}?"))  # fmt: skip
        return Question(text, work, str(total), "sum", len(work), [f for o in owners for f in o[2]])

    def ask_more(self, depth):
        found = self.owners(depth, 2)
        if not found:
            return None
        item, ((a, a_steps, a_facts, m), (b, b_steps, b_facts, n)) = found
        if m <= n:
            return None
        text = self.rng.choice((f"How many more {item} does {a} have than {b}?",
                                f"By how many {item} does {a} exceed {b}?"))  # fmt: skip
        work = a_steps + b_steps + [f"{m}-{n}={m - n}."]
        return Question(text, work, str(m - n), "more", len(work), a_facts + b_facts)

    def changed(self, question):
        """A fact that the answer needs was stated more than once."""
        return any(self.stated[fact] > 1 for fact in question.facts)


def ask(question):
    return f"Question: {question.text}\nWork:"


def reply(question):
    return f" {' '.join(question.work)}\nAnswer: {question.answer}"


# ----------------------------------------------------------------------------------------------- arithmetic


class Problem:
    """A word problem: .text, .work (a phrase and an equation a step), .answer, .people[0] is whom it is of."""

    LARGEST = 999  # of every number on the way
    LARGEST_PRODUCT = 600

    def __init__(self, rng, steps, side, who=None):
        self.rng = rng
        while True:
            self.people = rng.sample(NAMES, 3)
            if who:
                self.people = [who] + [p for p in self.people if p != who]
            self.text, self.work, self.facts = [], [], []
            self.draw(steps)
            self.name = name_of(self.facts)
            if side_of(self.name) == side:
                return

    def draw(self, steps):
        rng = self.rng
        person, other = self.people[:2]
        self.item = item = rng.choice(ITEMS)
        if steps < 3 or rng.random() < 0.6:
            self.answer = self.chain(person, steps, True)
            self.text.append(rng.choice((f"How many {self.item} does {person} have now?",
                                         f"What number of {self.item} does {person} have in the end?")))  # fmt: skip
            return
        left = rng.randint(1, steps - 2)
        a = self.chain(person, left, False)
        b = self.chain(other, steps - 1 - left, False)
        if a + b <= self.LARGEST and (rng.random() < 0.6 or a <= b) or a <= b:
            self.text.append(f"How many {item} do {person} and {other} have together?")
            self.answer = self.step("Together", a, "+", b)
        else:
            self.text.append(f"How many more {item} does {person} have than {other}?")
            self.answer = self.step("More", a, "-", b)

    def step(self, phrase, a, sign, b):
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        self.work.append(f"{phrase}: {a}{sign}{b}={result}.")
        self.facts.append((sign, b))
        return result

    def chain(self, person, steps, trades):
        """`steps` things that happen to the goods of a person; how many there are in the end"""
        rng = self.rng
        self.facts.append(self.item)
        if steps and rng.random() < 0.25:
            a, b = rng.randint(2, 9), rng.randint(2, 30)
            boxes = rng.choice(("boxes", "bags", "rows", "crates"))
            self.text.append(f"{person} has {a} {boxes} with {b} {self.item} in each.")
            self.facts.append(a)
            n = self.step(f"{a} {boxes} with {b}", a, "*", b)
            steps -= 1
        else:
            n = rng.randint(2, 99) if rng.random() < 0.6 else rng.randint(100, 600)
            self.text.append(rng.choice((f"{person} has {n} {self.item}.", f"{person} starts with {n} {self.item}.",
                                         f"{n} {self.item} belong to {person}.")))  # fmt: skip
            self.facts.append(n)
            if not steps:
                self.work.append(f"{person} has {n}.")
        while steps > 0:
            kind = rng.choices(("add", "take", "times", "share", "trade", "bring", "daily"), (5, 5, 1, 1.3, trades, 1, 1))[0]
            done = getattr(self, kind)(person, n, steps)
            if done is not None:
                n, used = done
                steps -= used
        return n

    def operand(self):
        return self.rng.randint(2, 60) if self.rng.random() < 0.6 else self.rng.randint(61, 300)

    def add(self, person, n, _):
        k = self.operand()
        if n + k > self.LARGEST:
            return None
        verb = self.rng.choice(("buys", "finds", "gets", "picks up", "earns"))
        self.text.append(f"{person} {verb} {k} more{self.rng.choice(('', ' ' + self.item))}.")
        return self.step(f"{verb} {k} more", n, "+", k), 1

    def take(self, person, n, _):
        k = self.operand()
        if n - k < 2:
            return None
        verb = self.rng.choice(("sells", "loses", "gives away", "throws away"))
        self.text.append(f"{person} {verb} {k}{self.rng.choice(('', f' of them', ' ' + self.item))}.")
        return self.step(f"{verb} {k}", n, "-", k), 1

    def times(self, person, n, _):
        k = self.rng.choice((2, 2, 3, 4))
        if n * k > self.LARGEST_PRODUCT:
            return None
        word = {2: "doubled", 3: "tripled", 4: "made four times as large"}[k]
        self.text.append(f"Then the number is {word}.")
        return self.step(word, n, "*", k), 1

    def share(self, person, n, _):
        ks = [k for k in range(2, 10) if n % k == 0 and n // k > 1]
        if not ks or n > self.LARGEST_PRODUCT:
            return None
        k = self.rng.choice(ks)
        if k == 2 and self.rng.random() < 0.5:
            self.text.append(f"{person} keeps half of them.")
        else:
            self.text.append(f"{person} makes {k} equal parts and keeps one of them.")
        return self.step(f"one of {k} parts", n, "/", k), 1

    def trade(self, person, n, _):
        k = self.rng.randint(2, 9)
        if n * k > self.LARGEST_PRODUCT:
            return None
        self.item = self.rng.choice([item for item in ITEMS if item != self.item])
        self.text.append(f"{person} trades each of them for {k} {self.item}.")
        return self.step(f"{k} {self.item} each", n, "*", k), 1

    def bring(self, person, n, _):
        k = self.operand()
        if n + k > self.LARGEST:
            return None
        other = self.people[2]
        self.text.append(f"{other} brings {k} {self.item} to {person}.")
        return self.step(f"{other} brings {k}", n, "+", k), 1

    def daily(self, person, n, steps):
        """Two steps: so many a day, for some days."""
        a, b = self.rng.randint(2, 12), self.rng.randint(2, 9)
        if steps < 2 or n + a * b > self.LARGEST:
            return None
        self.text.append(self.rng.choice((f"For {b} days {person} gets {a} each day.",
                                          f"{person} makes {a} a day for {b} days.")))  # fmt: skip
        k = self.step(f"{a} a day for {b} days", a, "*", b)
        return self.step(f"{k} more", n, "+", k), 2

    def body(self):
        return " ".join(self.text)

    def reply(self):
        return f" {' '.join(self.work)}\nAnswer: {self.answer}"

    def prompt(self):
        return f"Problem: {self.body()}\nWork:"


def sheet_line(problem):
    return f"Problem of {problem.people[0]}: {problem.body()}\n"


def sheet_question(problem):
    return f"Question: Solve the problem of {problem.people[0]}.\nWork:"


def right_answer(text):
    """What a reply gives as its answer; None if it gives none."""
    found = re.search(r"Answer: ([^\n<]*)", text)
    return found.group(1).strip() if found else None
