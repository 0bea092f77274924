"""How checkable instructions are put: of each kind TRAINED phrasings that are learned from, and then HELD_OUT that are not.

{x} is the input; {w}, {v}, {k}, {n}, {a}, {b} are what the instruction names; {q} is the question about a story.
"""

TRAINED, HELD_OUT = 6, 2
PHRASINGS = {
    "first": (
        "Which word starts this list? {x}", "Tell me the first word: {x}", "List: {x}\nFirst word?", "Say only the word at the beginning: {x}",
        "What comes first in {x}?", "I have the words {x}. Name the first of them.",
        "Pick the opening word of this list: {x}", "Look at the words {x}. Which of them stands in front?",
    ),
    "last": (
        "Which word ends this list? {x}", "Tell me the last word: {x}", "List: {x}\nLast word?", "Say only the word at the end: {x}",
        "What comes last in {x}?", "I have the words {x}. Name the last of them.",
        "Pick the closing word of this list: {x}", "Look at the words {x}. Which of them stands at the back?",
    ),
    "nth": (
        "Which word is the {k} one? {x}", "Tell me the {k} word: {x}", "List: {x}\nThe {k} word?", "Say only the word in the {k} place: {x}",
        "What comes {k} in {x}?", "I have the words {x}. Name the {k} of them.",
        "Pick the {k} word of this list: {x}", "Look at the words {x}. Which of them stands {k}?",
    ),
    "longest": (
        "Which word is the longest? {x}", "Tell me the word with the most letters: {x}", "List: {x}\nLongest word?",
        "Say only the longest of these: {x}", "What is the longest word in {x}?", "I have the words {x}. Name the longest of them.",
        "Pick the word of this list that has the greatest length: {x}", "Look at the words {x}. Which of them needs the most letters?",
    ),
    "sort": (
        "Alphabetical order, please: {x}", "Sort from a to z: {x}", "List: {x}\nIn alphabetical order?", "Order these words alphabetically: {x}",
        "What is {x} in the order of a dictionary?", "I have the words {x}. Sort them by their letters.",
        "Arrange this list alphabetically: {x}", "Write the words {x} as a dictionary would order them.",
    ),
    "reverse": (
        "Turn the order around: {x}", "Say these words from the last to the first: {x}", "List: {x}\nReversed?", "Reverse this list: {x}",
        "What is {x} in the opposite order?", "I have the words {x}. Write them starting from the end.",
        "Give this list back to front: {x}", "Write the words {x} in backward order.",
    ),
    "count": (
        "How many words are there? {x}", "Count the words: {x}", "List: {x}\nHow many?", "Say only the number of words here: {x}",
        "How long is the list {x}?", "I have the words {x}. How many do I have?",
        "Give the size of this list as a number: {x}", "The words are {x}. What is their number?",
    ),
    "join": (
        "Put and between the words: {x}", "Join these words by and: {x}", "List: {x}\nJoined by and?", "Write these with and in between: {x}",
        "What is {x} with and for every comma?", "I have the words {x}. Link them with and.",
        "Connect this list by the word and: {x}", "Write the words {x} in one line with and between each two.",
    ),
    "member": (
        "Is {w} in this list? {x}", "Yes or no: does {w} occur here? {x}", "List: {x}\nIs {w} in it?", "Say yes if {w} is one of these, else no: {x}",
        "Is {w} among {x}?", "I have the words {x}. Do I have {w}?",
        "Does this list contain {w}? {x}", "Look at the words {x}. Is one of them {w}? Yes or no.",
    ),
    "copy": (
        "Say this again: {x}", "Write the same sentence: {x}", "Sentence: {x}\nThe same again?", "Copy: {x}",
        "Repeat this sentence word for word: {x}", "I wrote: {x} Write it, too.",
        "Give this sentence back unchanged: {x}", "Echo the following: {x}",
    ),
    "replace": (
        "Write {v} for {w}: {x}", "Change {w} to {v}: {x}", "Sentence: {x}\nWith {v} instead of {w}?", "Put {v} where {w} is: {x}",
        "Replace the word {w} by {v}: {x}", "I wrote: {x} Say it with {v} in place of {w}.",
        "Swap the word {w} for {v} in this sentence: {x}", "Rewrite with {v}, not {w}: {x}",
    ),
    "repeat": (
        "Say {w} {n} times.", "Write the word {w} {n} times.", "Word: {w}\n{n} times?", "Repeat {w} until you have said it {n} times.",
        "What is {w} said {n} times?", "I want the word {w} {n} times in a row.",
        "Print {n} copies of {w}.", "Give me {w}, and that {n} times.",
    ),
    "plural": (
        "What is the plural of {w}?", "Say {w} in the plural.", "One {w}, many ...?", "Write the plural: {w}",
        "Make this word plural: {w}", "I have one {w}. What do I call two of them?",
        "Give the form of {w} for more than one.", "Which word means several of a {w}?",
    ),
    "opposite": (
        "What is the opposite of {w}?", "Say the contrary of {w}.", "Not {w} but ...?", "Write the word that means the reverse of {w}.",
        "Which word is opposed to {w}?", "I said {w} and meant the opposite. What did I mean?",
        "Give the antonym of {w}.", "Name what {w} is the opposite of.",
    ),
    "upper": (
        "Write {w} in capitals.", "Say {w} in upper case.", "Word: {w}\nIn capital letters?", "Make every letter large: {w}",
        "What is {w} in capital letters?", "I need {w} in big letters only.",
        "Capitalize all letters of {w}.", "Give the upper-case form of {w}.",
    ),
    "larger": (
        "Which is larger, {a} or {b}?", "Say the larger number: {a}, {b}", "Numbers: {a} and {b}\nThe larger one?", "Is {a} or {b} more?",
        "What is the larger of {a} and {b}?", "I have {a} and {b}. Name the larger number.",
        "Pick the greater of {a} and {b}.", "Of the two numbers {a} and {b}, which is the bigger?",
    ),
    "after": (
        "Which number follows {a}?", "Say the number after {a}.", "Number: {a}\nThe next one?", "Count one further than {a}.",
        "What comes right after {a}?", "I counted up to {a}. Which number is next?",
        "Give the successor of {a}.", "What is {a} and one more?",
    ),
    "story": (
        "{x} {q}", "{q} {x}", "Story: {x}\n{q}", "Read this and answer: {x} {q}",
        "I heard that {x} {q}", "Answer briefly. {x} {q}",
        "Here is what happened: {x} Now tell me: {q}", "Use this sentence to answer. {x} {q}",
    ),
}  # fmt: skip
KINDS = tuple(PHRASINGS)
