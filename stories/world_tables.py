"""Tables of the story world: names, helpers, places, things, each plot's script; world.py writes stories from them.

In the scripts "+" starts a beat, "=" one that opens a paragraph, "&" one that may come one place earlier. A beat has
several tellings between "|"; [a|b] is a choice, <soon> a shared phrase and {slot} a fact.
"""

from dataclasses import dataclass

GIRLS = "Mia Lily Anna Rosa Emma Nora Ella Zoe Lucy Ivy Ruby Clara Sara Maya June Tess Hana Lena Amy Kate".split()
BOYS = "Tom Ben Max Leo Sam Jack Finn Noah Luke Oscar Hugo Theo Adam Felix Milo Omar Paul Nico Eli Toby".split()
ANIMALS = """fox Pip he; rabbit Hazel she; bear Bruno he; mouse Dot she; duck Waddle he; hedgehog Bramble he;
squirrel Nutty she; frog Hopper he; kitten Velvet she; puppy Biscuit he; turtle Tully she; lamb Cotton she"""
PRONOUNS = {"he": ("him", "his", "himself"), "she": ("her", "her", "herself")}

# name and pronoun; families belong to everybody, people help children, beasts help animals.
HELPERS = {
    "family": "grandma she, grandpa he, mom she, dad he",
    "people": "farmer he, baker she, gardener she, sailor he, teacher she, carpenter he, shepherd he, tailor she",
    "beasts": "owl she, badger he, goose she, beaver he, mole he, hen she, horse he",
}

# name; preposition; three spots where a small thing can hide
PLACES = """
park; at; under a green bench; behind the big tree; beside the gate
garden; in; under a rose bush; behind the gate; between the beans
beach; at; behind a sand castle; under a bench; between two flat stones
forest; in; beside a log; under a thorny bush; behind a round stone
farm; at; behind a pile of hay; beside the gate; under a wooden cart
meadow; in; in the tall grass; between the flowers; behind a round stone
hill; on; behind a gray stone; under a thorny bush; in the tall grass
pond; at; between the reeds; beside a sleepy toad; under a pear tree
river; at; under the little bridge; beside a log; between the wet stones
lake; at; under a bench; behind a big stone; between the reeds
playground; at; under the slide; behind the swings; in the sandbox
market; at; under a table; behind a cart; beside a box of potatoes
village; in; beside the well; behind the gate; under a window
orchard; in; under a pear tree; behind a tall ladder; beside a box of plums
cottage; in; under the bed; behind the door; beside the stove
barn; in; behind the hay; under the stairs; beside the door
tent; in; under the pillow; beside the shoes; behind the bag
tree house; in; under the table; behind the door; beside the window
kitchen; in; under the table; behind the door; beside the stove
"""

# name; adjectives; wish; the wish come true; what it is like; places; weather
THINGS = """
kite; red yellow striped; fly the kite above the trees; flew the kite above the trees; [had a long tail of
  ribbons|looked like a bright bird]; park meadow hill farm; windy breezy
ball; red bouncy spotted; play catch with the ball; played catch with the ball; [bounced higher than a rabbit|was as
  round as the moon]; park playground garden village; sunny warm cloudy
boat; white wooden tiny; sail the boat across the water; sailed the boat across the water; [had a tall white sail|was
  made from a piece of wood]; pond river lake; sunny breezy warm
drum; round loud shiny; play a song on the drum; played a song on the drum; [went boom when it was tapped|sounded like
  happy thunder]; park market village hill; sunny warm bright
flute; silver wooden slim; play a tune on the flute; played a tune on the flute; [sang like a small bird|fit into one
  pocket]; meadow hill forest orchard; sunny cool bright
hat; blue woolly tall; wear the hat in the parade; wore the hat in the parade; [had a feather on top|was a little too
  big]; market village park farm; windy breezy bright
balloon; red green shiny; let the balloon dance in the wind; let the balloon dance in the wind; [was as light as a
  feather|had a long silver string]; park market village orchard; breezy sunny bright
book; thick little blue; read the book under a tree; read the book under a tree; [was full of stories about pirates|had
  a picture of a dragon on the front]; park garden orchard meadow; sunny warm quiet
lantern; round yellow little; light up the path with the lantern; lit up the path with the lantern; [glowed like a tiny
  sun|shone on every leaf]; forest farm orchard village; misty cool dark
blanket; soft warm woolly; have a picnic on the blanket; had a picnic on the blanket; [was as soft as a cloud|smelled of
  flowers]; park meadow beach garden; sunny warm bright
teddy bear; brown fluffy old; play pirates with the teddy bear; played pirates with the teddy bear; [had one button
  eye|was good at listening]; playground park garden beach; sunny warm cloudy
cake; sweet round tall; eat the cake at a picnic; ate the cake at a picnic; [smelled of honey|had berries on top]; park
  meadow orchard garden; sunny warm bright
pie; sweet golden warm; eat the pie for lunch; ate the pie for lunch; [smelled of apples|had a heart on top]; farm
  orchard garden lake; sunny cool bright
pumpkin; big orange round; make soup from the pumpkin; made soup from the pumpkin; [was bigger than a sleeping
  dog|glowed like the evening sun]; farm garden market village; cool cloudy bright
bike; green fast shiny; ride the bike down the lane; rode the bike down the lane; [had a little horn|had stars on its
  wheels]; park village playground farm; sunny warm cool
sled; wooden fast red; ride the sled over the snow; rode the sled over the snow; [was quick as a hare|had curly wooden
  tips]; hill meadow forest farm; snowy cold frosty
wagon; red big wooden; pull the wagon all around; pulled the wagon all around; [had four squeaky wheels|rolled over
  every stone]; farm village orchard market; sunny warm cool
rope; long strong yellow; jump over the rope ten times; jumped over the rope ten times; [had wooden handles|made a soft
  sound in the air]; playground park village garden; sunny warm cool
paint box; new bright little; paint a horse with the paint box; painted a horse with the paint box; [had many colors|had
  a soft little brush]; meadow farm orchard hill; sunny bright quiet
scarf; long striped woolly; wear the scarf in the wind; wore the scarf in the wind; [was as warm as toast|was as soft as
  a cloud]; hill village market lake; windy cool cold
key; golden little tiny; open the old box with the key; opened the old box with the key; [hung on a green string|shone
  like a star]; garden barn farm forest; sunny cloudy misty
umbrella; yellow purple big; splash in puddles under the umbrella; splashed in puddles under the umbrella; [opened with
  a pop|looked like a big flower]; park village market garden; rainy wet gray
flower; pink tall yellow; see the flower bloom; saw the flower bloom; [smelled like honey|had leaves like little hands];
  garden cottage farm; sunny warm cool
bell; brass little silver; ring the bell for everyone to hear; rang the bell for everyone to hear; [made a clear
  sound|hung on a blue ribbon|shone in the sun]; village farm hill market; sunny cool bright
basket; brown deep round; fill the basket with berries; filled the basket with berries; [was made of wood|smelled of
  ripe fruit]; forest orchard farm meadow; sunny warm cool
cup; blue white round; drink cocoa from the cup; drank cocoa from the cup; [had a heart on it|had a bird on its side];
  kitchen cottage garden; cool rainy cloudy
train; blue wooden long; race the train down a ramp; raced the train down a ramp; [had six little cars|was quick on its
  wheels]; playground garden cottage barn; sunny rainy cloudy
puzzle; big tricky new; finish the puzzle; finished the puzzle; [showed a castle by the sea|had a hundred pieces];
  cottage tree_house garden; rainy cool cloudy
shell; pink smooth curly; hear the sea inside the shell; heard the sea inside the shell; [shone like a star|was shaped
  like a horn|was as smooth as glass]; beach lake river; sunny warm breezy
egg; blue white small; see the egg hatch; saw the egg hatch; [felt warm and smooth|had tiny brown dots|was as smooth as
  a stone]; barn farm forest; sunny warm cool
"""

TIMES = "morning afternoon evening day Sunday Monday Friday".split()

PHRASES = {
    "soon": "After a while|Soon|A little later|Later that {time}|Later that {weather} {time}",
    "suddenly": "Suddenly|All at once|On that {weather} {time}|That same {weather} {time}",
    "high_try": "jumped as high as {he} could|stood on an old bucket|stood on the tips of {his} toes",
    "high_two": "threw a pine cone and hit {his} own nose|waved a stick in the air|told it to come down at once",
    "high_fix": "{helper} brought a long ladder and got the {thing} down|{helper} pulled the {thing} down with a rake|"
    "{helper} lifted {name} up to grab the {thing}",
    "far_try": "stretched out {his} arm|splashed with a stick",
    "far_two": "blew at the water|told it to come back at once",
    "far_fix": "{helper} pulled the {thing} back with a [long branch|rake]",
    "friends": "some friends ran by on their way to [a puppet show|a party by the river|a pancake party|the swings]",
}

# The last words of every story. What is named but once, a small model does not learn to look up (benchmarks/LOG.md).
CLOSING = """
+ What a {weather} {time} [that was|it had been] for {name}! | {name} would not forget that {weather} {time}. | So ended
{name}'s {weather} {time}.
"""
MEET = """
+ [Once upon a time|Once|Long ago|In a house on a quiet lane|Not far from here], there [was|lived] {a_kid} named {name}.
| There [once was|was once] {a_kid} [whose name was|called] {name}. | {name} was {a_kid}[ with a big heart|].
"""
OPENING = """
+ [Once upon a time|Once|Long ago|In a house on a quiet lane], there [was|lived] {a_kid} named {name}. {name} had
{a_thing}[ and loved it dearly|]. | There [once ]was {a_kid} named {name} [who had|who owned|with] {a_thing}. | {name}
was {a_kid} who [had|was given|owned] {a_thing}. | {name} was {a_kid}. Of all {his} things, {name} liked {his}
{adjective} {thing} best.
+ The {thing} {about}[, and {name} [loved|liked] that|]. | {name} [liked|loved] it because it {about}. | {His} {thing}
{about}. | |
+ One {weather} {time}, {name} [was {at} with the {thing}|went {to} with the {thing}|had the {thing} {at}]. | On a
{weather} {time}, {name} [took the {thing} {to}|was {at} and had the {thing} along]. | It was a {weather} {time} {at},
and {name} had the {thing} along.
& {name} [wanted|hoped|wished] to {wish}. | "[What|This is] a {weather} {time} to {wish}," said {name}. | All week long,
{name} had [wanted|wished|hoped] to {wish}. | {name} had one [big |]wish, and that was to {wish}.
"""
ASK = """
= <soon>, {some_helper} came by and asked, "Why do you look so {feeling}?" | {Some_helper} [saw|had seen] it all and
came over. "[What is the matter|Can I help], {name}?" asked {helper}. | Then {name} saw {some_helper} and ran over to
ask for help. | Luckily, {some_helper} was not far away and heard {name}.
"""
DONE = """
+ [In the end|Before the {weather} {time} was over|Still on that {weather} {time}], {name} {did}. | [So|And so] {name}
{did}[ after all|, just as {he} had wished|]. | [Then|After that,] {name} {did}, and {helper} [watched and
clapped|stayed to watch|laughed with joy]. | {Helper} stayed, and {name} {did}. The {thing} was just as good as {he} had
[hoped|wished].
"""

LOST = OPENING + """
= [On the way|While {name} was dancing along|While {name} was looking at the clouds], {mishap}. | {name} was so busy
[looking at a bird|counting clouds|humming a song] that {he} did not look. {Mishap}. | {name} stopped to [smell a
flower|listen to a bird|look at a beetle]. <suddenly>, {mishap}.
+ <soon>, {name} looked [down|around] and [could not see the {thing}|saw no {thing}|missed the {thing}]. | "Where is my
{thing}?" cried {name}. | When {name} wanted the {thing}, it was [gone|not there].
+ {name} was {feeling}. {He} looked {wrong}, but [only a beetle sat there|there was only an old shoe|only a snail sat
there]. | {name} felt {feeling}. {He} searched {wrong} and [found only a snail|saw just a beetle|found an old shoe]. |
First {name} looked {wrong}. {He} saw no {thing}, but [just a snail|only an old shoe]. {name} felt {feeling}.
""" + ASK + """
+ "I [lost|cannot find] my {thing}," said {name}. | {name} told {helper} [all about|about] the lost {thing}.
+ "Let us [walk back slowly|go back and look]," said {helper}. "[Four eyes see more than two, {name}|Two can look for
{any_thing} better than one|{Any_thing} does not go far on its own]." | "Do not worry," said {helper}. "Where did you
see the {thing} last?" {name} pointed and [they went there|off they went].
+ They looked and looked, and at last {fix}. | Step by step {name} and {helper} went back. <soon>, {fix}. | {Helper}
looked low and {name} looked high. Then {fix}.
= "[There you are|Oh, my {thing}]!" [cried|called] {name} and [hugged {helper}|held the {thing} tight]. | {name} [hugged
{helper}|thanked {helper}|danced around {helper}]. | "Thank you, {dear}!" said {name}. |
""" + DONE + """
+ From then on, {name} kept [a close eye on|good care of] the {thing}, and felt {glad} to have [it back|it again]. |
{name} was {glad}, and {he} [did not let go of|kept both eyes on] the {thing} all the way home. | That night the {thing}
lay [beside|next to] the bed, safe and sound, and {name} felt {glad}.
"""
STUCK = OPENING + """
= At first [all went well|it was great fun] for {name}. <suddenly>, {mishap}. | {name} had [only just begun|just
started] when {mishap}. | "Look at me!" called {name}. But nobody looked, and {mishap}. | <suddenly>, {mishap}. "Come
back, {thing}!" cried {name}.
+ {name} {clue}. It did not [help|work], so {he} {result}. The {thing} [stayed|was still] where it was. | First {name}
{clue}, and then {he} {result}. The {thing} did not [move|come back]. | {name} {clue} and {result}, but {he} [could
not|did not] get the {thing} back.
+ {name} sat down, and {he} was {feeling}. | Now {name} felt {feeling}. | {name} was [tired and |very |]{feeling}.
""" + ASK + """
+ "My {thing} is stuck," said {name}. | | "I cannot [get|reach] my {thing}," said {name}.
+ "[I have an idea|Some jobs need two|Let me think]," said {helper}. | {Helper} looked at the {thing} and
[nodded|thought]. | "It is [good|clever] to ask for help," said {helper}. | "Oh, that {thing} wants to [stay|sleep]
there," [laughed|joked] {helper}.
+ [Slowly|Carefully|Little by little], {fix}. | <soon>, {fix}. | {name} held {his} breath, and {fix}.
= "You did it!" [cried|said] {name}. | "Thank you, {dear}!" said {name}. "Now I have my {thing} back." | {name} took the
{thing} in {his} arms and thanked {helper}.
""" + DONE + """
+ {name} was {glad}. [Two heads were better than one|Asking had been easy], {he} thought[ on the way home|]. | On the
way home, {name} felt {glad} and [hummed|sang] a little song about {helper} and the {thing}. | "Next time I will ask
sooner," said {name}, and {he} was {glad}.
"""
BROKEN = OPENING + """
= <suddenly>, there was a [crack|loud crack]. {Mishap}. | It was [fun|lovely] until {mishap}. | {name} went [too fast|a
bit too fast|without looking], and {mishap}. | <suddenly>, {mishap}. "Oh, my poor {thing}!" said {name}.
+ {name} tried to mend it with [mud|honey|leaves], but then it was [broken and sticky|only a sticky mess]. | {name} put
[a leaf|mud|a bit of honey] on it. But the {thing} only [got wet|got sticky|got muddy]. | {name} looked at the {thing}
from every side, but {he} did not know [what to do|how to mend it].
+ {name} was {feeling}. {He} looked at the poor {thing} and sighed. | {name} felt {feeling} and [sat down|sighed]. |
"Now I can never {wish}," said {name}. {name} was {feeling}.
""" + ASK + """
+ "My {thing} is broken," said {name}. | {name} held out the {thing}. | "Can you mend my {thing}?" asked {name}.
+ "[A broken thing is not a lost thing|Most things can be mended|We can fix this]," said {helper}. "[You can help me
with it|Hold the {thing} still|Sit down and help me], {name}." | {Helper} looked at the {thing} for a long time. "[We
can do this|I know what to do]," said {helper}.
+ {name} [held the {thing} still|passed the tools one by one|watched every step], and {fix}. | {name} and {helper}
worked [side by side|together]. <soon>, {fix}. | First {helper} cleaned the {thing}. Then {fix}.
= The {thing} [was as good as new|looked a little different, but it worked|was strong again]. | "It is even better than
before!" said {name}[ and hugged {helper}|]. | "Thank you, {dear}!" [cried|said] {name}.
""" + DONE + """
+ {name} was {glad}, and now {he} knew how to mend {any_thing}, too. | {name} felt {glad}. The mended part was the part
of the {thing} that {he} liked best. | From then on, {name} was careful with the {thing}, and {he} felt {glad} each time
{he} saw it.
"""
SHARE = OPENING + """
= {Some_helper} was there, too. "[Will you share with me|May I join you], {name}?" asked {helper}. | Then {some_helper}
came and looked at the {thing}. "I would like that, too," said {helper}. | {Some_helper} ran up and [saw|pointed at] the
{thing}. "That is a [good|lovely] {thing}!" said {helper}.
+ "No, [it is mine|this is my {thing}|there is only one {thing}]," said {name}. | But there was only one {thing}, and
{name} [did not want to share it|held it tight]. | {name} turned away with the {thing}. "It is my {thing}," {he} said.
+ {Helper} reached out, {name} pulled, and {mishap}. | They both wanted the {thing} so much that {mishap}. | "Let go!"
said {name}. "Please, {name}!" said {helper}. <suddenly>, {mishap}.
= {name} felt {feeling}, and {helper} was close to tears. | Now {helper} was sad, and {name} felt {feeling} all alone
with the {thing}. | {Helper} went away and sat down with {hhis} back to {name}. {name} felt {feeling}.
+ {name} [thought|sat still] for a while. "It is no fun without {helper}," {he} said. | "{Any_thing} is not as good as
{helper}," thought {name}. | "I am sorry, {helper}," said {name}. "[We can both have the {thing}|Let us share the
{thing}]."
+ Then {name} had an idea. {Fix}. | {name} called {helper} back. Soon {fix}. | {Helper} nodded, and {fix}.
= "[This is better|Two is more fun than one]," said {helper}. | {name} and {helper} laughed until their [cheeks|bellies]
hurt. | {Helper} [laughed|smiled], and so did {name}.
+ {name} had wanted to {wish}, and now {he} did it with {helper}. {name} was {glad}. | So {name} {did}, and {helper}
did, too. {name} felt {glad}. | {name} was {glad}. With {helper} there, the {thing} was twice as [good|nice].
"""
SHY = MEET + """
+ {name} was shy. {He} wanted to {wish}, but {name} did not know [how|what to say]. | {name} wished to {wish}, but {he}
was so shy that {he} [looked at {his} feet|spoke to the clouds instead]. | More than anything, {name} wanted to {wish}.
+ One {weather} {time}, {stranger} was {at} with {a_thing}. {name} [stood by and watched|hid and peeked out]. | It was a
{weather} {time} {at}. {Stranger} came by with {a_thing}, and {name} watched from [far away|behind a tree].
= "What if {helper} [laughs at me|says no]?" thought {name}. {name} felt {feeling}. | {name} felt {feeling}. Saying
hello to {helper} seemed as hard as climbing to the moon. | {name} opened {his} mouth, but no word came out. {name} felt
{feeling}.
+ <suddenly>, {mishap}. | {name} was about to go home when {mishap}.
+ {name} took a [deep|big] breath. Then {fix}. | {name} forgot all about being shy. {Fix}. | Nobody else was near, so
{fix}.
= "Thank you, I am {helper}," said {helper}. "And I am {name}," said {name}[ very softly|]. | "That was kind," said
{helper}. "[Will you play with me|Would you like to stay], {name}?" | "Hello," said {name}. It was a very small hello,
but {helper} [heard it|smiled].
+ [So the two of them|Together they|{name} and {helper}] {did}. | {Helper} let {name} hold the {thing}, and together
they {did}.
+ "I [was|am] a little shy, too," said {helper}. {name} [laughed|was surprised]. | "Will you come back tomorrow?" asked
{helper}. "Yes!" said {name}, and this time it was a big yes. |
+ {name} went home with a friend named {helper}, and {he} was {glad}. | {name} felt {glad}. One small hello to {helper}
had been enough. | {name} had wished to {wish}, and now {he} had {helper}. {name} was {glad}.
"""
DARK = MEET + """
+ One {weather} {time}, {name} lay {at} with {a_thing}. | On a {weather} {time}, {name} went to bed {at} and took
{a_thing} along. | It was a {weather} {time} {at}, and {a_thing} lay beside {name}.
& {name} [wanted|hoped] to {wish}. | {name} told {his} {thing}, "Tonight I will {wish}."
= <suddenly>, {mishap}. | {name} was almost asleep when {mishap}. | {name} lay very still. Then {mishap}.
+ {name} held the {thing} tight. {name} was {feeling}. | {name} hid under the covers with the {thing}. {name} felt
{feeling}. | {name} was {feeling}. "Did you hear that?" {he} asked the {thing}, but it said nothing.
+ "It must be a [big|hungry|hairy] [dragon|monster|giant]," {name} thought. | "Go away!" called {name}. But nothing went
away, and {name} held {his} breath. | To {name}, it seemed as big as a [bear|house|giant].
= {name} called out, and {some_helper} came at once. | Then {some_helper} came in and saw that {name} was [awake|not
asleep]. | {Some_helper} heard {name} and sat down close by.
+ "[Something|A monster] is [there|out there]," said {name}. "Bring your {thing} and let us [look|find out]," said
{helper}. | "Come, {name}, you and I and the {thing} will look together," said {helper}.
+ Hand in hand they went closer, and then {fix}. | {Helper} [went first|went ahead]. Then {fix}. | Slowly {name} and
{helper} went closer. At last {fix}.
= {name} laughed. "[Is that all|Was that my monster], {dear}?" {he} said. | "Hello, little noise," said {name}. | {name}
had to laugh, and {helper} laughed, too. | "A noise is small when you know it, {name}," said {helper}.
+ {name} put the {thing} next to {his} pillow and felt {glad}. {He} did {wish}. | Now {name} was {glad}. {He} lay down
with the {thing}, and {he} did {wish}. | "Good night, {dear}," said {name}. {He} was {glad}, and with the {thing} beside
{him}, {he} did {wish}.
"""
LEARN = OPENING + """
= But it was [not easy|hard] for {name}. The first time, {mishap}. | {name} tried, but {mishap}. | "This is easy," said
{name}. <soon>, {mishap}.
+ {name} tried again, and the same thing happened[ twice|]. | The second time with the {thing} was [no better|even
worse] for {name}. | {name} tried once more and it went wrong once more. | A [crow|goat|cow] looked at {name} and [shook
its head|seemed to laugh].
+ {name} was {feeling}. "I will never {wish}," {he} said. | {name} felt {feeling} and [sat down on|looked at] a stone. |
"I give up," said {name}. {He} put the {thing} down and felt {feeling}.
""" + ASK + """
+ "I [want to {wish}, but I cannot|cannot {wish}]," said {name}. "You cannot do it yet," said {helper}. | "You learned
to walk by falling down," said {helper}. | "I also got it wrong [ten|a hundred] times," said {helper}.
+ {Helper} gave {him} a tip. "{Clue}," said {helper}. | "{Clue}," said {helper}. "And [take your time|do not hurry],
{name}." | {Helper} showed it slowly. "{Clue}," {hhe} said.
+ {name} nodded and tried it [again and again|three more times|until the sun was low]. | {name} practiced with the
{thing} [all day|every day that week]. | It went a little better with {helper} there, and {name} kept on trying.
= At last, {fix}. | And one, two, three, {fix}! | {name} took the {thing} and thought of the tip. {Fix}.
+ "Look, {dear}! I can do it!" called {name}. | {Helper} clapped. "You did not give up, {name}," {hhe} said. | "Did you
see that?" cried {name}. "I saw every bit of it," said {helper}.
+ {name} was {glad}. {He} had wanted to {wish}, and now {he} could. | {name} felt {glad}. "Tomorrow I will do it again,"
{he} told {helper}. | That evening, {name} was {glad} and put the {thing} beside {his} bed.
"""
GIFT = MEET + """
+ {Some_helper} was going to have a birthday[ soon|]. | It was almost the birthday of {some_helper}. | {Some_helper} had
been [ill|tired|lonely] for [days|a long time].
+ {name} wanted to {wish}. | "I will make {a_thing} for {my_helper}," said {name}. {He} really wanted to {wish}. |
{name} had an idea. {He} would {wish}, all by {himself}.
+ One {weather} {time}, {name} [began|went to work|got everything ready] {at}. | So on a {weather} {time}, {name} sat
{at} and [began|set to work].
= At first [all|everything] went well for {name}. <suddenly>, {mishap}. | {name} worked [slowly|hard] and [hummed|sang].
But {mishap}. | The {thing} was almost done when {mishap}.
+ "Oh no, my {thing} is [ruined|spoiled]," said {name}. {name} felt {feeling}. | {name} was {feeling}. "What will
{my_helper} say?" {he} thought. | {name} felt so {feeling} that {he} almost threw the {thing} away.
+ {name} [took a deep breath|sat still for a while] and looked at the {thing} again. Then {fix}. | Then {name} had an
idea. {Fix}. | "I will not give up," said {name}. Then {fix}.
= {name} [gave the {thing} to|took the {thing} to|put the {thing} in front of] {helper}. "It is a little odd, but I made
this {thing} for you," {he} said. | "This is for you, {dear}," said {name}, and {he} held out the {thing}. | {name} hid
the {thing} behind {his} back. "Guess what I made," {he} said to {helper}.
+ {Helper} [smiled from ear to ear|laughed with joy|gave {name} a big hug]. "[I will always keep this {thing}|This is
the best {thing} of all], because you made it." | "Nobody ever made me {any_thing} before," said {helper}. {name} saw
that {hhis} eyes were [shining|bright].
+ {Helper} {clue}, and {name} was {glad}. | {name} felt {glad}, and {helper} {clue}. | That is why {helper} {clue}. And
{name}? {name} was {glad}.
"""
PROMISE = MEET + """
+ {Some_helper} [kept|had] {a_thing} {at}. The {thing} {about}. | {Some_helper} had {a_thing} {at}, and it {about}.
+ "I must go [away|to town] for a [while|day]," said {helper}. "Will you {clue}?" "I promise," said {name}. | "Can you
{clue} while I am away?" asked {helper}. "Yes, I promise," said {name}.
+ {name} wanted to {wish}. | To {name}, a promise was a [big|serious] thing, and {he} wanted to {wish}.
= It was a {weather} {time}. <suddenly>, {mishap}. | That {weather} {time}, {mishap}.
+ "Come [with us|along], {name}!" they called. {name} felt {feeling}. | "You can come, too, {name}!" they said. {name}
was {feeling}. {name} loved to be with {his} friends. | {name} jumped up. Then {he} looked at the {thing} and felt
{feeling}.
+ "If I go now, who will {clue}?" thought {name}. | "I cannot come, for I promised {my_helper} to {clue}," said {name}.
| {name} thought of {helper} and shook {his} head.
+ So {fix}. | It was hard, but {fix}. | The others ran off, and {fix}. | {name} waved to them. {Fix}.
+ {name} counted [clouds|leaves] and told the {thing} a [long |]story. | To pass the time, {name} sang to the {thing}. |
The hours with the {thing} were [long|slow], and a fly was {his} only guest. |
= When {helper} came [back|home], {result}. | <soon>, {helper} came [back|home]. {Result}.
+ "You kept your promise, {name}," said {helper}. | "[I knew I could trust you|You can be trusted], {name}," said
{helper}.
+ {Helper} had brought [a bag of nuts|a bag of plums|two pancakes], and they shared it all beside the {thing}. {name}
was {glad}. | {name} felt {glad}. A promise to {helper} was a promise, and the {thing} was safe. | {name} was {glad}.
That was better than any [puppet show|party], {he} told {helper}.
"""
LIE = MEET + """
+ {Some_helper} had {a_thing} {at}, and it {about}. | {Some_helper} kept {a_thing} {at}. The {thing} {about}. | There
was {a_thing} {at}. It belonged to {some_helper}, and it {about}.
+ "Please do not touch the {thing}," {helper} [often|always] said. But {name} wanted to {wish}. | {name} wanted to
{wish}, but {he} was [told|asked] not to touch it. | {name} had one wish, and that was to {wish}. "[Wait for me|Ask me
first]," said {helper}.
= One {weather} {time}, {helper} was out. {name} went up to the {thing}. <suddenly>, {mishap}. | On a {weather} {time},
nobody was looking, so {name} took the {thing}. "I will {wish} just once," {he} said. Then {mishap}. | It was a
{weather} {time}, and {name} was alone {at}. {He} went up to the {thing}. <suddenly>, {mishap}.
+ "Who did this?" asked {helper}. "It was the [wind|rain|goat]," said {name}, but that was [a lie|not true]. | {Helper}
came back and [saw it|looked]. "It [was not me|must have been the wind]," said {name}, and that was a lie. | "Dear me,
my {thing}!" said {helper}. {name} told a lie and said, "It must have been the [goat|wind|crow]."
+ {name} felt {feeling}. At supper, {name} could not eat [anything|more than one berry]. | {name} was {feeling}. The lie
about the {thing} was in {his} belly like a [cold stone|cold potato]. | That night, {name} felt {feeling} and could not
sleep. {He} thought of the {thing}.
= [At last|In the end|The next day], {name} went to {helper}. "I [told a lie|did not tell the truth] about the {thing},
and I am sorry," {he} said. | "I am sorry, {dear}," said {name} at last. "It was me who touched the {thing}." | "The
goat did nothing," said {name} at last. "I did it, and I am sorry about the {thing}."
+ {Helper} was quiet. Then {hhe} [smiled at {name}|took {name} in {hhis} arms]. "{name}, it was [brave|good] of you to
tell me about the {thing}," {hhe} said. | "A lie grows heavy," said {helper}. "I am glad that you put it down, {name}."
| "I am more happy about the truth than sad about the {thing}," said {helper}.
+ They sat down together, and {fix}. | "Now let us make it right," said {helper}, and {fix}. | <soon>, {fix}.
= The next time, {name} asked first, and {helper} let {him} {wish}. {name} was {glad}. | Then {helper} let {name}
{wish}. {name} felt {glad}, and as light as a feather. | "Now you may {wish}," said {helper}. {name} was {glad}, and
supper tasted good again.
"""
HELP = OPENING + """
= On the way, {name} met {some_helper}. {Mishap}. | But near the path stood {some_helper}. {Mishap}. | <soon>, {name}
saw {some_helper}, who [sighed|looked tired]. {Mishap}.
+ {name} felt {feeling} for {helper}. "If I stop, I may be too late to {wish}," {he} thought. | "[What a day|Oh dear, oh
dear]!" said {helper}. {name} felt {feeling}. | {name} looked at {his} {thing}, and then at {helper}. {name} felt
{feeling} for {hhim}.
+ "[My fun can wait|The {thing} can wait]," said {name}. "Let me help you, {dear}." | "Wait, {dear}!" called {name}. "I
can help, and so can my {thing}." | {name} turned around at once. "I will help you," {he} said to {helper}.
= {name} [thought for a while|had a good idea]. Then {fix}. | "[I know|I have it]!" said {name}. Then {fix}. | {name}
[scratched {his} ear|closed {his} eyes] and thought hard. Soon {fix}.
+ It took [a long time|a whole hour|half of that {time}], and {name} got [mud|leaves] on {his} nose. | It was
[hard|slow] work, but {name} and {helper} [sang|joked] all the while. |
+ "You and your {thing} saved the day," said {helper}. | "Thank you, {name}. [What a good helper you are|I could not do
it alone]," said {helper}. | "I never thought of using {any_thing}," said {helper} with a laugh.
= "But what about your plan?" asked {helper}. "You wanted to {wish}." | "And now it is your turn," said {helper}. |
{name} looked at the sky. It was not too late for {helper} and {name}. |
""" + DONE + """
+ {name} was {glad}. {He} had come late, but {he} had come with {helper}. | {name} felt {glad}. The {thing} was good for
play, and even better for helping {helper}. | From that day on, {helper} always waved to {name}, and {name} felt {glad}.
"""
CONTEST = OPENING + """
= [Many|Lots of] others had come to the {clue}. {His} friend {helper} was there, too. | Everybody {at} was ready for the
{clue}, and so was {some_helper}. | "Good luck in the {clue}!" said {some_helper}. "And good luck to you," said {name}.
+ [A whistle blew|Somebody called "Go"], and the {clue} began. {name} was [ahead|in front|doing very well]. | The {clue}
began. {name} did [well|better than ever], and everybody cheered. | One, two, three, and the {clue} began! {name} was
soon the best of all.
+ <suddenly>, {mishap}. | But not far away, {mishap}. | {name} could almost see the [ribbon|prize]. Then {mishap}.
= {name} felt {feeling}. "If I stop, I will lose the {clue}," {he} thought. | {Helper} gave a cry. {name} looked at the
others and felt {feeling}. | {name} was {feeling}. Nobody else had seen {helper}.
+ "A friend is more than a [prize|ribbon]," said {name}. | {name} did not think for long. "[Wait, {helper}, I am
coming|I will help you, {helper}]!" {he} called. | But {name} could not leave {helper} [like that|alone].
+ So {fix}. | At once, {fix}. | {name} turned back. {Fix}.
+ "But now you will lose!" said {helper}. "[So what|That is all right], {helper}," said {name}. | "Thank you, {name},
but [go on|hurry], or you will be last!" said {helper}. | {helper} [smiled|hugged {him}] and said, "You are a true
friend, {name}."
= A [fast|very small|very proud|clever] [goose|piglet|pony|rooster] won the {clue}, and {name} and {helper} were
[last|the very last]. | {name} did not win the {clue}. The [ribbon|prize] went to a [goose|piglet|pony|rooster] in a
[red|green|yellow] vest. | The {clue} was won by a [goose|piglet|pony|rooster], who ate the ribbon.
+ {name} had not managed to {wish}, but {he} was {glad}. {He} [and {helper} went home arm in arm|had helped {helper}]. |
"Did you want to win?" asked {helper}. "Yes," said {name}, "but I would stop for you again." {name} was {glad}. | All
the way home {name} and {helper} [laughed|sang] about the {clue}. {name} felt {glad}.
"""
HEAVY = OPENING + """
= But {mishap}. | <suddenly>, {mishap}. | {name} had not gone far when {mishap}.
+ {name} [pushed|pulled]. Then {he} [leaned on it|pushed again|turned red in the face]. The {thing} did not move for
{name}. | {name} pushed in front and pulled behind, but the {thing} [stayed|did not move]. | "Move, please, {thing}!"
said {name}. {He} {clue}, but that did [not help|nothing].
+ {name} was {feeling}. The {thing} was just too heavy for {him}. | {name} felt {feeling} and sat down next to the
{thing}. | "I am too small," said {name}. {name} felt {feeling}.
""" + ASK + """
+ "The {thing} is too heavy for me," said {name}. | "My {thing} will not move," said {name}. | {name} pointed at the
{thing}. "I cannot move my {thing} alone," {he} said.
+ "One is small, but two are strong," said {helper}. | {Helper} walked around the {thing} once. "We need [a plan|four
hands], {name}," {hhe} said. | "Then we must do it together," said {helper}.
+ "One, two, three!" they called, and {fix}. | They counted to three, and {fix}. | {name} took a deep breath. Then
{fix}.
+ The {thing} [shook|began to roll] at last. | | With a [bump|plop], the {thing} came along. {Helper} fell over backward
and laughed.
= "[We did it|It works]!" [cried|said] {name}. | "We are strong, {dear}!" said {name}. | {name} hugged {helper}. "You
are as strong as a [horse|bear], {dear}," {he} said.
""" + DONE + """
+ {name} was {glad}. A heavy {thing} is not so heavy with {helper} there. | {name} felt {glad} and kept a seat for
{helper} at supper. | "Call me any time," said {helper}. {name} was {glad} that {he} was not alone with the {thing}.
"""
FOUND = MEET + """
+ One {weather} {time}, {name} was {at}. There {mishap}. | On a {weather} {time}, {name} went {to}. {Mishap}. | It was a
{weather} {time}, and {name} was playing {at}. Just by chance, {mishap}.
+ The {thing} {about}. "[What a treasure|How lovely]!" said {name}. | The {thing} {about}, and {name} could see no name
on it. | "Whose {thing} is this?" said {name}. The {thing} {about}.
+ {name} wanted to {wish}. | "Now I can {wish}," {he} thought. {name} really wanted to {wish}. | How {name} wanted to
{wish}!
= "But it is not mine," thought {name}. {name} felt {feeling}. | {name} took three steps toward home and stopped. {name}
felt {feeling}. | {name} was {feeling}. Somebody must be looking for the {thing}.
+ So {he} asked [a crow|a goat|a snail|a cow], but it said nothing. | {name} asked everybody {at}. "Is this your
{thing}?" | {name} held up the {thing}. "Did anybody lose {any_thing}?" {he} called.
+ Then {some_helper} came along, looking [left and right|under every leaf|very sad]. | <soon>, {name} saw {some_helper}
walking up and down. | Not far away stood {some_helper} with a very sad face.
+ "[I have lost my {thing}|My {thing} is gone]," said {helper}. "Is it [this one|{adjective}]?" asked {name}. | "Did you
lose something?" asked {name}. "Yes, my {adjective} {thing}," said {helper}.
+ It was hard to let go, but {fix}. | {name} [smiled|nodded] at {helper}. {Fix}. | {name} looked at the {thing} one last
time. Then {fix}.
= "[You could have kept it|Not everyone would do that], {name}, so thank you," said {helper}. | {Helper} [hugged the
{thing}, and then {name}|danced with the {thing}]. | "You are a good and honest friend, {name}," said {helper}.
+ "What do you wish for?" asked {helper}. "I would like to {wish}," said {name}. | Then {helper} said, "Come, {name},
let us enjoy it together." | {Helper} took {name} by the hand. "Stay with me and the {thing}," {hhe} said.
""" + DONE + """
+ {name} was {glad}. {He} had given away {any_thing} and found a friend. | {name} felt {glad} and slept very well that
night. | "I am {glad}," said {name}, "and the {thing} is, too."
"""


@dataclass(frozen=True)
class Plot:
    """One kind of story: who helps, what may go wrong with which things, and the script that tells it."""

    name: str
    # "friend", "family", or "anybody"; a friend is a character, too.
    helpers: str
    script: str
    # One row per line, "things: mishap; fix; clue; result": the clue is a try, a tip, a task or a contest.
    details: str
    ending: str
    lesson: str
    wish: str = ""
    places: str = ""
    time: str = ""
    weather: str = ""
    traits: str = "cheerful curious quiet clever gentle funny careful busy lively friendly dreamy merry thoughtful"
    feelings: str = "sad worried upset unhappy"
    end_feelings: str = "happy glad proud cheerful thankful joyful"


ANYBODY = "anybody"
PLOTS = (
    Plot("lost", ANYBODY, LOST, """
ball: the ball [rolled|bounced] out of sight; {name} and {helper} found the {thing} {spot}
hat, scarf: the wind [blew|carried] the {thing} away; {name} and {helper} found the {thing} {spot}
key, shell: the {thing} fell through a hole in {his} pocket; {name} and {helper} found the {thing} {spot}
flute, book, teddy bear, bell: the {thing} [slipped|fell] out of {his} bag; {name} and {helper} found the {thing} {spot}
train, puzzle, rope, blanket: the {thing} [slid|slipped] out of {his} arms; {name} and {helper} found the {thing} {spot}
""", "{name} and {helper} found the {thing}, and {name} {did}", "look again, and look together"),
    Plot("stuck", ANYBODY, STUCK, """
kite, hat, scarf, umbrella: [the wind|a gust of wind] blew the {thing} [into a tall tree|onto a roof]; <high_fix>;
  <high_try>; <high_two>
ball, teddy bear: the {thing} [flew up and landed on a roof|got stuck between two branches]; <high_fix>; <high_try>;
  <high_two>
balloon: the string of the balloon got caught on a high branch; <high_fix>; <high_try>; <high_two>
boat: the boat floated into the reeds, far from the shore; <far_fix>; <far_try>; <far_two>
""", "{helper} helped {name} get the {thing} back, and {name} {did}", "it is clever to ask for help"),
    Plot("broken", ANYBODY, BROKEN, """
kite: the kite [hit a thorny bush and tore|tore on a branch]; {helper} glued a piece of wool over the hole
drum: the skin of the drum tore in the middle; {helper} stretched a new skin over the drum
boat: the mast of the boat broke; {helper} made a new mast from a straight stick
wagon, train: a wheel [came|fell] off the {thing}; {helper} put the wheel back on
teddy bear: an arm came off the teddy bear; {helper} put the arm back on with strong string
lantern, basket, umbrella: the handle of the {thing} broke off; {helper} made a new handle from [wood|string]
bike: the chain of the bike came off; {helper} put the chain back on
sled: the sled hit a stone and cracked; {helper} tied the cracked wood with strong string
flute: the flute fell on a stone and cracked; {helper} closed the crack with glue
rope: the rope [tore|broke] in two; {helper} tied the two ends together with a clever knot
""", "{helper} mended the {thing}, and {name} {did}", "broken things can be mended"),
    Plot("share", "friend", SHARE, """
ball: the ball rolled into the mud; {name} and {helper} threw the ball to each other
cake, pie: the {thing} nearly fell on the ground; {name} cut the {thing} into two pieces of the same size
bike, kite, wagon: the {thing} [tipped over|fell down] with a crash; {name} and {helper} took turns with the {thing}
sled: the sled tipped over in the snow; {name} and {helper} rode the sled together, one in front and one behind
book: a page of the book almost tore; {name} and {helper} read the book aloud, one page each
umbrella: the umbrella fell into the mud; {name} and {helper} walked close together under the umbrella
blanket: the blanket almost tore in two; {name} and {helper} sat side by side on the blanket
paint box, puzzle: the {thing} fell down and everything rolled around; {name} and {helper} worked with the {thing} side
  by side
shell, drum, flute: the {thing} fell into the grass; {name} and {helper} took turns with the {thing}
""", "{name} shared the {thing} with {helper}", "sharing makes a thing twice as good",
         feelings="sad sorry lonely unhappy"),
    Plot("shy", "friend", SHY, """
ball, train: the {thing} rolled away and stopped at {name}'s feet; {name} rolled the {thing} back
kite, hat, balloon, scarf: the wind [blew|carried] the {thing} right to {name}; {name} caught the {thing} and gave it
  back
rope: the rope got tangled around {helper}'s feet; {name} untied the knot
puzzle: {helper} could not find the last piece; {name} found the piece under a leaf and held it out
book: {helper} came to a word that was too long to read; {name} read the long word out loud
wagon: the wagon of {helper} got stuck in the mud; {name} pushed the wagon from behind
paint box: {helper} spilled all the blue paint; {name} showed {helper} how to turn the spot into a lake
drum: {helper} dropped a drumstick, and it rolled away; {name} picked it up and tapped on a stone with it
""", "{name} made friends with {helper}", "one small hello can be enough",
         wish="make a friend", traits="quiet gentle careful thoughtful dreamy clever curious",
         places="park playground garden village meadow farm orchard", feelings="shy nervous afraid"),
    Plot("dark", "family", DARK, """
lantern, blanket, teddy bear, book, flute, bell: something scratched [at the window|on the wall]; {name} and {helper}
  saw that it was only [a branch|a hungry mouse|an old cat]
lantern, blanket, teddy bear, book, flute, bell: something knocked on the roof; {name} and {helper} saw that it was only
  [rain|a bird with cold feet]
lantern, blanket, teddy bear, book, flute, bell: something cried [outside|out there|in the dark]; {name} and {helper}
  saw that it was only the wind in [an old tree|an empty box]
lantern, blanket, teddy bear, book, flute, bell: there was a [loud|terrible] boom [outside|in the dark]; {name} and
  {helper} saw that it was only thunder far away
lantern, blanket, teddy bear, book, flute, bell: two [green|yellow] eyes shone in the dark; {name} and {helper} saw that
  it was only [an old cat|a toad with big eyes]
""", "{helper} showed {name} that the noise was harmless, and {name} slept well", "a fear is small when you know it",
         wish="sleep {at} all night",
         places="cottage barn tent tree_house", time="night", weather="dark stormy windy moonless",
         feelings="scared afraid frightened", end_feelings="brave calm safe happy"),
    Plot("learn", ANYBODY, LEARN, """
bike: {name} [slid and fell into a bush|rode into a heap of hay]; {name} {did}; look ahead and keep your feet moving
sled: the sled [turned around and went backward|stopped after one step]; {name} {did}; look to the side where you want
  to go
kite: the kite [came down on {his} head|fell to the ground like a stone]; {name} {did}; run into the wind and let the
  string out slowly
drum: the drum sounded like [potatoes falling down|a cow on a bridge]; {name} {did}; count to three and tap softly
flute: the flute sounded like an angry [duck|mouse]; {name} {did}; blow softly, as if your soup were hot
rope: {name} tripped over the rope and sat down with a bump; {name} {did}; listen for the tap of the rope, and then jump
paint box: the horse that {name} painted looked like a [potato|pancake]; {name} {did}; look first, and then paint what
  you see
boat: the boat [tipped over|sank like a stone]; {name} {did}; put a small stone in the boat so that it sits straight
puzzle: [the sea was above the clouds|no two pieces would fit]; {name} {did}; start with the corners
""", "{name} kept trying until {he} {did}", "trying again is how we learn",
         feelings="sad upset grumpy cross", end_feelings="happy glad proud joyful"),
    Plot("gift", ANYBODY, GIFT, """
scarf, hat, blanket: the wool rolled away and made a [big|terrible] tangle; {name} turned the tangle into a fluffy
  fringe; used the {thing} every day
cake: the cake sank until it was as flat as a plate; {name} put sweet berries all over the cake; ate three big pieces
pie: the crust of the pie cracked in the middle; {name} put a sweet heart over the crack; ate it all up
basket, lantern: the handle of the {thing} bent to one side; {name} tied a bow around the bent handle; used the {thing}
  every day
kite, boat: a drop of paint fell on the {thing}; {name} turned the drop into a smiling face; went out to try the {thing}
  at once
cup: the cup got a dent; {name} painted a duck that sat in the dent; drank tea from the cup every day
puzzle: one piece of the puzzle broke; {name} made a new piece in the shape of a heart; finished the puzzle before
  supper
book: a page of the book got a spot; {name} turned the spot into a beetle with a hat; read the book out loud twice
""", "{name} gave the {thing} to {helper}, and {helper} loved it", "a gift made with love need not be perfect",
         wish="make {a_thing} for {helper}",
         places="cottage kitchen", feelings="sad worried upset", end_feelings="happy glad proud joyful"),
    Plot("promise", ANYBODY, PROMISE, """
flower: <friends>; {name} stayed and watered the flower; water the flower when it is hot; the flower had opened wide
lantern: <friends>; {name} stayed and kept the lantern burning; keep the lantern burning; the lantern shone across the
  dark path
bell: <friends>; {name} stayed and rang the bell; ring the bell on time; all the cows had come home to the sound of the
  bell
key, shell: <friends>; {name} stayed and held the {thing} tight; keep the {thing} safe; the {thing} lay safe and warm in
  {name}'s hand
egg: <friends>; {name} stayed and kept the egg warm; keep the egg warm; a tiny yellow chick sat beside the broken egg
pumpkin, pie, basket: <friends>; {name} stayed and chased the crows away from the {thing}; keep the crows away from the
  {thing}; the {thing} was safe and whole
""", "{name} kept the promise to {helper}", "a promise is a promise",
         wish="keep the promise", feelings="torn restless lonely"),
    Plot("lie", ANYBODY, LIE, """
cup: {name} dropped the cup and the handle broke off; {name} and {helper} glued the handle back on; drink from the cup
flower: {name} pulled at the flower and the stem bent; {name} and {helper} tied the stem to a stick; smell the flower
cake, pie: {name} tasted the {thing} and ate [half of it|nearly all of it]; {name} and {helper} baked a new {thing};
  taste the {thing}
book: {name} turned a page too fast and it tore; {name} and {helper} mended the page with glue; look at the pictures in
  the book
drum: {name} hit the drum too hard and made a hole in it; {name} and {helper} put a new skin on the drum; tap on the
  drum
lantern: {name} bumped into the lantern and the glass cracked; {name} and {helper} put new glass in the lantern; light
  the lantern
bell: {name} rang the bell so hard that it fell and bent; {name} and {helper} put the bell back into shape; ring the
  bell
puzzle: {name} bumped the table and the puzzle fell apart; {name} and {helper} put the puzzle together again; finish the
  puzzle
egg, shell: {name} dropped the {thing} and it got a crack; {name} and {helper} put the {thing} in a soft nest of wool;
  hold the {thing}
""", "{name} told {helper} the truth and said sorry", "the truth makes the heart light", wish="{clue}",
         places="cottage kitchen barn", feelings="ashamed guilty sorry", end_feelings="relieved glad happy thankful"),
    Plot("help", ANYBODY, HELP, """
wagon, sled, bike: {helper} had a heap of [wood|potatoes] that was too heavy to carry; {name} brought it all home on the
  {thing}
basket, hat, scarf, blanket: {helper} had dropped a bag of [apples|plums|nuts] on the road; {name} gathered them all up
  in the {thing}
rope, kite: a goat had run away from {helper}; {name} caught the goat with the end of the {thing}
umbrella: {helper} was getting very wet; {name} held the umbrella over {helper} all the way home
lantern: {helper} had lost a baby goat in the dark; {name} lit the lantern and found the baby goat
flute, drum, bell: {helper} could not get the [cows|goats] to come home; {name} made music with the {thing} until they
  all came
pumpkin, pie: {helper} had hungry guests and nothing to cook; {name} gave half of the {thing} to the guests
teddy bear, balloon, ball: a baby near {helper} would not stop crying; {name} made the baby laugh with the {thing}
paint box: nobody could read the old sign of {helper}; {name} painted new letters on the sign
""", "{name} helped {helper} first and {did} afterward", "fun can wait when a friend needs help",
         feelings="sorry sad worried"),
    Plot("contest", "friend", CONTEST, """
kite: {helper}'s kite string got all tangled up; {name} stopped and untied every knot; kite contest
boat: {helper}'s boat got stuck in the reeds; {name} stopped and pushed {helper}'s boat free; boat race
sled: {helper} rolled off into the deep snow; {name} stopped and pulled {helper} out of the snow; sled race
bike: {helper} rode into a bush; {name} stopped and pulled {helper} out of the bush; bike race
cake, pie: {helper} dropped all {hhis} berries in the mud; {name} gave {helper} half of {his} own berries; {thing}
  contest
pumpkin: {helper}'s pumpkin rolled into a ditch; {name} helped to push {helper}'s pumpkin out; pumpkin contest
drum: {helper}'s drumstick broke; {name} gave {helper} one of {his} own; drum contest
flute: {helper} forgot the tune; {name} stopped and played the tune again with {helper}; flute contest
wagon: a wheel fell off {helper}'s wagon; {name} stopped and put the wheel back on; wagon race
train: {helper}'s train fell off the ramp; {name} stopped and put {helper}'s train back; train race
rope: {helper} fell and bumped {hhis} nose; {name} stopped and sat down with {helper}; jumping contest
paint box: {helper} ran out of blue paint; {name} gave {helper} the last of {his} blue; painting contest
hat: the wind took {helper}'s hat; {name} ran after {helper}'s hat and brought it back; hat contest
""", "{name} did not win the {clue} but helped {helper}", "a friend is more than a prize",
         wish="win the {clue}", feelings="torn worried sorry"),
    Plot("heavy", ANYBODY, HEAVY, """
wagon, bike: the {thing} sank into the [mud|soft mud] and got stuck; {helper} pulled in front and {name} pushed from
  behind; put sticks under the wheels
sled: the sled sank into the [deep|soft] snow and got stuck; {helper} pulled in front and {name} pushed from behind;
  blew at the snow
pumpkin, drum: the {thing} rolled into a [ditch|hole] and was too heavy to lift; {helper} and {name} rolled the {thing}
  up a board; sang to it
""", "{helper} and {name} moved the {thing} together, and {name} {did}", "two are stronger than one",
         feelings="tired upset sad cross"),
    Plot("found", ANYBODY, FOUND, """
ball, hat, book, flute, key, scarf, umbrella, bell, teddy bear, kite, shell, balloon, blanket, egg, train: {name} found
  {a_thing} {spot}; {name} gave the {thing} back to {helper}
""", "{name} gave the {thing} back to {helper}, and {name} {did}", "what is lost belongs to somebody",
         feelings="torn unsure uneasy"),
)
