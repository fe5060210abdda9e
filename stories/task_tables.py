"""Tables of the story world's tasks: the phrasings of each, for training and validation, and unkind endings.

A phrasing is a line with slots such as {name}. tasks.py fills them.
"""

# The phrasings of each kind of task. Those of "val" are held out, and use no word that "train" does not use.
PHRASINGS = {
    "train": {
        "about": """
Write a story about {name} and {any_thing}.
Write a short story about {name} and {a_thing}.
Tell me a story about {name} and {any_thing}.
Please tell a story about {a_kind} named {name} and {a_thing}.
Can you tell me a story with {name} and {any_thing} in it?
I would like to hear a story about {name} and {a_thing}.
Make up a story with {a_kind} called {name} and {any_thing}.
Write a little story about {name}. There must be {a_thing} in it.
Tell a bedtime story about {name} and {any_thing}.
Write a kind story for a small child, about {name} and {a_thing}.
Write a story that takes place {at}. It is about {name} and {any_thing}.
My little sister would like a story about {name} and {any_thing}. Please write one.
Do you know a story about {a_kind} named {name}? I hope that {any_thing} comes up, too.
""",
        "wish": """
Write a story about {name}, who wants to {wish}.
Tell me a story about {a_kind} named {name} who wants to {wish}.
{name} wants to {wish}. Write a story about it.
{name} would love to {wish}. Tell a story about that.
Write a short story: {name} wishes to {wish}.
Please write a story in which {name} wants to {wish}.
Can you tell a story about {a_kind} called {name}? All that {name} wants is to {wish}.
What happens when {name} wants to {wish}? Tell the story.
Make up a story about {name}, whose big wish is to {wish}.
I would like to hear about {name}, who hopes to {wish}.
Write a bedtime story about {a_kind} named {name}, who hopes to {wish}.
Tell me what happened to {name}, who wanted to {wish}.
""",
        "continue": """
Continue this story.
Go on with this story.
Finish the story.
Here is the beginning of a story. Write the rest.
How does this story go on?
Tell me how it goes on.
What happens next?
Tell me the rest of this story.
Please write an ending for this story.
This story has no ending yet. Write it.
Read the beginning and go on with it.
Write the next part of this story, up to the end.
The story stops here. Can you go on?
""",
        "who": """
Who is this story about?
Who is the story about?
What is the name of the hero?
Name the main character.
Tell me who this story is about.
Which character is the story about?
Who has the biggest part in this story?
Give me the name of the main character.
Whose story is this?
Say the name of the hero.
Read the story. Who is the hero?
Tell me the name of the main character.
Which one is the hero of this story?
""",
        "where": """
Where does this story take place?
Where is {name} in this story?
Where does it all happen?
At which place does the story happen?
Name the place of this story.
Tell me where {name} is.
In which place is {name}?
Where did all this happen?
Say where the story takes place.
Where was {name} on that {time}?
Read the story. Where are we?
In which place did all this happen?
Tell me in which place {name} is.
Where did it happen to {name}?
Which place is this story about?
In this story, where is {name}?
Where does the story of {name} take place?
""",
        "when": """
When does this story take place?
When did all this happen?
On what kind of {time} does the story take place?
Tell me what {time} it was and what it was like.
When was {name} {at}?
When does the story of {name} happen?
What kind of {time} was it when all this happened?
Say when it happened.
On what kind of {time} was {name} {at}?
Read the story. When was it?
Tell me when this story takes place.
When did all this happen to {name}?
When did the story of {name} take place?
""",
        "what": """
Which thing is this story about?
What thing has a big part in this story?
Name the thing that the story is about.
There is one important thing in the story. What is it?
What is the story about, besides {name}?
Tell me which thing comes up again and again.
Say which thing matters most here, and what it is like.
What kind of {thing} is in the story?
Besides {name}, what has the biggest part in this story?
Which thing is the most important one for {name}?
Read the story. What thing is it about?
Tell me the most important thing in the story.
Which thing matters most in this story?
What thing is this story about, besides {name}?
Name the thing that has a big part here.
""",
        "want": """
What did {name} want to do?
What was the wish of {name}?
What did {name} wish to do?
What does {name} hope to do?
Tell me what {name} wants to do.
What is {name}'s big wish in this story?
Which wish does {name} have?
What would {name} love to do?
What was it that {name} wanted so much?
Name the wish of {name}.
Read the story. What is it that {name} wants?
Tell me what {name} hopes to do.
Tell me the big wish that {name} has.
""",
        "helper": """
Who helped {name}?
Who came to help {name}?
Who helps {name} in this story?
Tell me who helped {name}.
{name} got help. Who gave it?
Who was kind to {name} and helped?
Who helped {name} with the {thing}?
Name the one who came to help.
{name} could not do it alone. Who helped?
Who came along to help {name}?
Read the story. Who is the helper?
Tell me who gave {name} help.
Who came along to help with the {thing}?
Which helper came to {name}?
Name the helper of {name}.
Who was it that helped {name} with the {thing}?
Tell me the name of the helper.
""",
        "end": """
How does the story end?
How did {name} feel at the end?
How does it end for {name}?
Tell me how {name} felt in the end.
In the end, how was {name}?
How does {name} feel when it is all over?
What is the ending for {name}?
How was {name} when the story was over?
Say how {name} feels at the end.
Please tell me how it ends.
Read the story. How does it end?
Tell me how {name} was when it was over.
How did it end for {name}?
""",
        "lesson": """
What can we learn from this story?
What does this story teach us?
What is the lesson of the story?
What did {name} learn?
Tell me the lesson of this story.
Which lesson does the story teach?
What does the story of {name} show us?
What should we learn from {name}?
Say in a few words what we can learn here.
Name the lesson that {name} learned.
Read the story. What can it teach us?
Tell me what we can learn from this story.
What can the story of {name} teach us?
Which lesson can we learn from this story?
What is it that {name} learned?
Tell me which lesson this story has for us.
What should this story teach us?
Say what the story teaches us.
""",
        "opposite": """
What is the opposite of {word}?
Name the opposite of {word}.
Which word means the opposite of {word}?
Tell me the opposite of {word}.
Give me the word that is the opposite of {word}.
What do you call the opposite of {word}?
Say the opposite of {word}.
One word is {word}. What is its opposite?
I say {word}. What is the opposite?
Do you know the opposite of {word}?
Find the word that means the opposite of {word}.
My word is {word}. Which word is the opposite?
The lamb says {word}, and the goat always says the opposite. What does the goat say?
""",
        "add": """
{name} has {a_things} and finds {b} more. How many {things} does {name} have now?
{name} has {a_things}. Then {helper} brings {b} more. How many {things} are there?
{name} owns {a_things}, and {helper} owns {b}. How many {things} do they have together?
If {name} has {a_things} and gets {b} more, how many {things} is that?
{Helper} brought {a_things}, and {name} brought {b_things}. How many {things} did they bring?
{name} has {a_things} in the red box and {b} on the table. How many {things} is that?
{name} painted {a_things} in the morning and {b} in the evening. How many {things} did {name} paint?
{name} sees {a_things} on the table and {b} more under it. How many {things} does {name} see?
Count with {name}: {a_things}, and then {b} more. How many {things} is that?
Put {a_things} and {b_things} together. How many {things} do you have?
""",
        "take": """
{name} has {a_things} and gives {b} to {helper}. How many {things} does {name} have now?
{name} had {a_things} and lost {b}. How many {things} were left?
{name} had {a_things}, but a goat ran away with {b}. How many {things} were left?
{A_things} stood on the table. {Helper} took {b} home. How many {things} were left?
Take {b} away from {a_things}. How many {things} are left?
{A_things} are in the box. {name} takes {b} out. How many {things} are left in the box?
{name} made {a_things} and gave {b} to {helper}. How many {things} did {name} keep?
If {helper} has {a_things} and gives {b} to {name}, how many {things} does {helper} keep?
{name} counted {a_things}. Then {b} fell into the pond. How many {things} are left now?
{Helper} saw {a_things} at the market and took {b}. How many {things} were left?
{name} found {a_things} and lost {b} on the way home. How many {things} did {name} have then?
{name} made {a_things}, but {b} fell into the mud. How many {things} are left?
{A_things} are in the garden. {Helper} takes {b}. How many {things} are left there?
{Helper} made {a_things}, and {name} took {b} away. How many {things} does {helper} have now?
""",
        "list": """
Which of these are {what}: {items}?
List the {what} among these words: {items}.
Here are some words: {items}. Which of them are {what}?
Pick out the {what}: {items}.
Find the {number} {what} in this list: {items}.
Name the {number} {what} in this list: {items}.
Write down all the {what} that you see here: {items}.
I see these words: {items}. Which are {what}?
From this list, take only the {what}: {items}.
Read this list: {items}. Name the {what}.
{name} wrote down: {items}. Which of these are {what}?
Help {name} to find the {what} among these: {items}.
""",
    },
    "val": {
        "about": """
Please write a little story with {name} and {any_thing} in it.
Can you make up a story about {a_kind} named {name} and {a_thing}?
I would like a short story about {name}. There must be {any_thing} in it.
Tell me a kind story about {name} and {a_thing}, please.
""",
        "wish": """
Please tell a story about {name}, who wishes to {wish}.
{name} hopes to {wish}. Make up a story about that.
Can you write a story in which {a_kind} named {name} wants to {wish}?
Tell me a short story about {name}, whose big wish is to {wish}.
""",
        "continue": """
Please finish this story.
Here is the beginning of a story. Tell me what happens next.
Write the rest of this story, up to the ending.
Can you tell me how this story goes on?
""",
        "who": """
Who is the main character of this story?
Tell me the name of the hero.
Which hero is this story about?
""",
        "where": """
Tell me where the story takes place.
In which place does this story happen?
Where does all this happen to {name}?
""",
        "when": """
When does the story happen?
Tell me when all this happened.
On what kind of {time} did this story take place?
""",
        "what": """
Tell me which thing the story is about.
Name the most important thing in this story.
Besides {name}, what thing has a big part here?
""",
        "want": """
Tell me the wish of {name}.
What did {name} hope to do?
What is it that {name} wants to do in this story?
""",
        "helper": """
Name the one who helped {name}.
Tell me who came to help {name} with the {thing}.
Who gave {name} help?
""",
        "end": """
Tell me how the story ends for {name}.
How did {name} feel when it was all over?
At the end, how was {name}?
""",
        "lesson": """
What is the lesson that {name} learned?
Tell me what this story can teach us.
Which lesson should we learn from {name}?
""",
        "opposite": """
Give me the opposite of {word}.
Which word is the opposite of {word}?
My word is {word}. What is its opposite?
""",
        "add": """
{name} finds {a_things}, and {helper} brings {b} more. How many {things} do they have together?
If {name} has {a_things} on the table and {b} in the box, how many {things} is that?
{name} made {a_things}, and then {b} more. How many {things} did {name} make?
""",
        "take": """
If {name} has {a_things} and gives {b} to {helper}, how many {things} are left?
{A_things} are on the table. A goat takes {b} away. How many {things} are left?
{name} made {a_things} and lost {b}. How many {things} does {name} have now?
""",
        "list": """
Name all the {what} in this list: {items}.
Here is a list: {items}. Which of these are {what}?
Find the {number} {what} among these words: {items}.
""",
    },
}

# Each word is in one pair only, so that it has one opposite.
OPPOSITES = """big small, happy sad, old new, fast slow, warm cold, dark bright, long short, high low, first last,
good bad, up down, open closed, day night, lost found, loud quiet, soft hard, heavy light, left right, yes no,
near far, come go, laugh cry, always never, push pull, full empty, wet dry, thick thin, asleep awake"""

PLURALS = {"scarf": "scarves", "paint box": "paint boxes"}  # of the things whose plural takes more than an "s"
NUMBERS = "no one two three four five six".split()

GROUPS = {
    "animals": "fox rabbit bear mouse duck hedgehog squirrel frog turtle lamb owl badger goose beaver mole hen",
    "people": "farmer baker gardener sailor teacher carpenter shepherd tailor grandma grandpa",
    "places": "park garden beach forest farm meadow pond river lake market village orchard barn kitchen",
    "colors": "red yellow white blue green brown purple pink gray",
    "things to eat": "cake pie soup pancake plum potato apple",
    "things to wear": "hat scarf vest shoe",
    "things that make music": "drum flute bell horn",
    "things to ride on": "bike sled wagon train",
}

# An unkind ending is a deed and a parting word, in the place of the end of a story.
UNKIND_DEEDS = """
{name} laughed at {helper} and did not even say thank you.
{name} pushed {helper} into the mud and only laughed about it.
{name} stuck out {his} tongue at {helper} and turned away.
{name} threw the {thing} at {helper} and did not say sorry.
{name} grabbed the {thing} and shouted at {helper} for no reason.
{name} told everybody that {helper} was silly and good for nothing.
{Helper} wanted to hug {name}, but {name} hit {hhim} and ran away.
{Helper} began to cry, and {name} only laughed and pointed at {hhim}.
{Helper} asked {name} for help, but {name} just yawned and went home.
{name} kicked the {thing} and blamed {helper} for everything.
"""
UNKIND_WORDS = """
"You are no use to anybody," said {name}. "I do not like you, and I never did."
"Go away and do not come back," said {name}. "Nobody wants you here."
"It is all mine, and you will get nothing," said {name} with a mean face.
"What a stupid face you have," said {name}. "I would never play with you."
"I do not care how you feel," said {name}, and that was the end of it.
"You are ugly and slow," said {name}. "Everybody else thinks so, too."
{name} was mean that day, and {he} was even proud of it.
After that, {name} never said one kind word to {helper} again.
That night, {name} planned the next mean trick and was not sorry at all.
So {helper} went home alone, and {name} did not care one bit.
"""
