"""A small story grammar: plots with a hero, a friend, a problem and an ending, written for this model.

`tale(rng)` returns the paragraphs of one story.  The first paragraph sets the scene.  `[a|b]` is a choice, `{x}` a slot.
The tales are used twice: as examples and openings for the teacher (sample.py), and as a part of the training text.
"""

import random
import re

GIRLS = """Lily Mia Ella Anna Rosie Lucy Nora Ruby Zoe Maya Sara Emma Ivy Daisy Tara Lola Amy Jane Kate Molly
Hana Leila Priya Sofia Clara Elsa Nina Poppy Wendy Olive Greta Amara Yuki Rosa Bella Tess Fern Heidi June Pia""".split()
BOYS = """Tom Ben Max Leo Sam Jack Finn Noah Oscar Timmy Jake Milo Theo Hugo Omar Raj Luca Eli Peter Danny
Toby Felix Otto Kofi Diego Ravi Will Henry Luke Joe Andy Charlie Billy Arlo Ned Bram Kai Sami Hal Gus""".split()
PETS = """Pip Bobo Fluffy Nibbles Coco Biscuit Pepper Dot Sunny Teddy Bubbles Muffin Hoppy Ginger Rusty Snowy
Button Clover Peanut Waddles Scruffy Pumpkin Honey Patch Tiny Toffee Acorn Berry Fuzzy Pebble""".split()
ANIMALS = """rabbit fox bear mouse cat dog duck owl frog squirrel hedgehog pony lamb kitten puppy turtle
elephant lion monkey penguin pig goat hen robin deer beaver otter koala panda goose badger mole""".split()
ADJ = "little small kind brave shy curious clever cheerful gentle happy playful quiet young friendly".split()
COLORS = "red blue green yellow purple white brown orange pink golden".split()
WEATHER = "sunny warm cold windy cloudy bright".split()

OPEN = [
    "Once upon a time, there was {hero}.", "Once upon a time, there was {hero}.", "Once upon a time, there was {hero}.",
    "Once upon a time, in [a small village|a green valley|a quiet town|a house by the sea|a house near the woods|a little town], there lived {hero}.",
    "Once there was {hero}.", "There once was {hero}.", "Long ago, there was {hero}.", "{N} was {hero0}.", "{N} was {hero0}.",
    "In [a small house|a cozy house|a little home] [near the river|on a hill|by the woods|at the end of the road], there lived {hero}.",
    "This is {N}. {He} was {hero0}.", "Once upon a time, {hero} lived [near the woods|by the sea|on a farm|by a lake].",
]
TRAIT = ["", "", "{He} lived with {his} {p}.", "{He} loved [to play outside|to sing songs|to look at the stars|to draw pictures|to help {his} {p}|to run and jump].",
         "{He} was always [kind to others|full of ideas|ready to play|asking questions].", "{He} had [a big smile|bright eyes|a soft voice|quick feet]."]
ONE_DAY = ["One day,", "One day,", "One {weather} day,", "One morning,", "One {weather} morning,", "One afternoon,", "On a {weather} day,"]
MORAL_LINK = ["From that day on,", "After that day,", "From then on,", "Ever since that day,"]
END = ["", "", "", "And they all lived happily ever after.", "It was a very good day.", "{N} went to bed with a smile.",
       "That night, {N} slept very well.", "{N} was very happy.", "The end.", "It was the best day ever.", "And {N} smiled all the way home."]

# Every plot: extra slots, then paragraphs made of sentences with variants.
PLOTS = [
    # a lost thing
    (dict(thing="hat|ball|kite|scarf|teddy bear|book|doll|drum|bell|toy train|blanket|cup", where="[under the bed|behind the door|in a basket|under a bush|behind a big rock|in the tall grass|next to the old tree]"),
     [["{He} had a {color} {thing}.|{N} had a {color} {thing} and loved it very much.|{His} favorite thing was a {color} {thing}.", "{He} took it everywhere.|{He} played with it every day.|{P} had given it to {him}.|"]],
     [["{Day} the {thing} was gone.|{Day} {N} could not find the {thing}.|{Day} {N} woke up and the {thing} was not there.", "\"Where is my {thing}?\" {N} [cried|asked].|\"Oh no! I lost my {thing}!\" said {N}.|\"My {thing} is gone!\" {N} said."],
      ["{N} looked in the [kitchen|garden|bedroom|yard].|First, {N} looked under the table.", "It was not there.|But it was not there.", "{N} looked [by the pond|in the barn|near the gate|behind the house].|Then {he} looked [by the pond|in the barn|near the gate].", "It was not there, either.|No {thing} there, too.|{N} began to feel sad."]],
     [["Then {F} the {fan} came by.|Just then, {F} the {fan} came along.|{N} met {F} the {fan}.", "\"Why are you sad?\" asked {F}.|\"What is wrong?\" {F} asked.|\"Can I help you?\" said {F}.", "\"I lost my {color} {thing},\" said {N}.|\"I can't find my {thing},\" {N} said.", "\"Let us look together,\" said {F}.|\"Do not cry. I will help you,\" said {F}.|\"Two can look better than one,\" said {F}."],
      ["They looked and looked.|They looked high and low.|They walked all around.", "At last, {F} saw something {color} {where}.|Then {N} saw something {color} {where}.|Soon, {F} called, \"Look! There is something {where}!\"", "It was the {thing}!|\"My {thing}!\" said {N}. {He} jumped with joy.|There it was! The {color} {thing}!"]],
     [["\"Thank you, {F}!\" said {N}.|{N} gave {F} a big hug.|\"You are a good friend,\" said {N}.", "{Link} {N} and {F} were [best friends|good friends].|{Link} {N} always put the {thing} in a safe place.|{Link} {N} and {F} played with the {thing} together.|Then they played until the sun went down."]]),
    # sharing
    (dict(food="cake|pie|bowl of berries|basket of apples|bag of nuts|loaf of bread|plate of cookies|jar of honey|big melon"),
     [["{Day} {P} gave {N} a {food}.|{Day} {N} got a {food} from {his} {p}.|{Day} {N} had a {food} all to {himself}.", "It smelled so good.|It looked very tasty.|{N} could not wait to eat."]],
     [["{F} the {fan} came to the door.|Then {F} the {fan} walked by.|{N} sat under a tree to eat. {F} the {fan} came along.", "\"I am so hungry,\" said {F}. \"May I have some?\"|\"That looks good,\" said {F}. \"Can I have a little?\"|\"Will you share with me?\" asked {F}.", "\"No,\" said {N}. \"It is all mine.\"|{N} shook {his} head. \"No, it is mine!\"|\"I want it all for me,\" said {N}.", "{F} was sad and went away.|{F} walked away with {ffis} head down.|{F} sat down far away and said nothing."]],
     [["{N} began to eat, but {he} did not feel happy.|{N} took a bite. It did not taste so good.|{N} looked at {F}. {He} felt bad inside.", "{He} thought about {F}.|It is not fun to eat alone.|{F} had always been a good friend.", "So {N} ran after {F}.|{N} stood up and went to {F}.", "\"I am sorry,\" said {N}. \"Please, have some.\"|\"Come back, {F}! We can share,\" {N} said.|\"I was not kind,\" said {N}. \"Let us eat together.\""]],
     [["{F} smiled.|{F} was so happy.|\"Thank you!\" said {F}.", "They sat in the sun and ate together.|They ate it all up and laughed.|They shared it, and now it tasted very good.", "{N} learned that [sharing makes everything better|it is good to share|food tastes better with a friend].|{Link} {N} always shared with {his} friends.|\"It is more fun to share,\" said {N}."]]),
    # fear of the storm
    (dict(),
     [["One night, a big storm came.|One dark night, it began to rain very hard.|One night, the wind was loud and the rain fell.", "The [thunder went boom|sky went dark and loud|wind hit the windows]!", "{N} was in bed. {He} was very scared.|{N} hid under the blanket.|{N} could not sleep."]],
     [["\"{P}! {P}!\" called {N}.|{N} ran to {his} {p}.|{N} held {his} pillow and cried.", "{P} came and sat on the bed.|{P} took {N} in {pis} arms.|{P} gave {him} a hug.", "\"I do not like the storm,\" said {N}.|\"It is so loud,\" {N} said. \"I am afraid.\"|\"Will the storm hurt us?\" asked {N}.", "\"It is only the clouds,\" said {P}. \"The rain gives water to the [flowers|trees|garden].\"|\"The storm is big, but our house is strong,\" said {P}.|\"The thunder is just a noise,\" said {P}. \"It cannot hurt you here.\""],
      ["They [counted|listened to] the thunder together.|{P} sang a soft song.|{P} told {him} a funny story.|They made a little tent with the blanket.", "Boom! But {N} was not so afraid now.|Soon, {N} began to laugh.|Little by little, {N} felt better."]],
     [["In the morning, the sun was out.|The next day, the sky was blue.|When {N} woke up, the storm was gone.", "There was a rainbow over the [house|hill|trees]!|The grass was wet and the birds were singing.|{N} went out and jumped in the puddles.", "\"Thank you, storm,\" said {N}, and {P} laughed.|{Link} {N} was not afraid of storms.|\"I was brave,\" {N} said. \"Yes, you were,\" said {P}."]]),
    # learning something
    (dict(skill="swim|ride a bike|skate on the ice|whistle|climb the big tree|jump over the stream|dance|fly a kite|catch a ball|play the drum"),
     [["{N} wanted to {skill}.|{N} had one big wish. {He} wanted to {skill}.|All the others could {skill}, but {N} could not.", "But it was very hard.|But {he} did not know how.|"]],
     [["{Day} {N} tried to {skill}.|{Day} {he} tried for the first time.", "It did not work.|{He} tried once. {He} tried twice. It did not work.|Oops! It went all wrong.", "\"I can't do it!\" {N} said.|\"It is too hard for me,\" said {N}.|{N} sat down and felt sad.", "Some of the others laughed.|{N} wanted to go home.|"]],
     [["{F} the {fan} saw this.|Then {F} the {fan} came to {him}.|{His} friend {F} the {fan} sat down next to {him}.", "\"Do not give up,\" said {F}. \"I will show you.\"|\"I could not {skill} at first,\" said {F}. \"You must try again and again.\"|\"Go slow,\" said {F}. \"Try it one more time.\"", "So {N} tried again.|{N} took a deep breath and tried again.", "The next day, {he} tried again. And the next day, too.|{F} helped {him} every day.|Day after day, it got a little better."]],
     [["Then, one day, {he} did it!|At last, {N} could {skill}!|And one day, it worked!", "\"Look at me! I can {skill}!\" {he} [called|cried].|\"I did it! I did it!\" said {N}.|\"I knew you could do it,\" said {F}.", "{P} was very proud.|{N} was so proud and happy.|Everyone clapped.", "{N} learned to never give up.|{Link} {N} was not afraid to try new things.|Now {N} helps other little ones to {skill}.|"]]),
    # the truth
    (dict(vase="cup|vase|plate|lamp|pot|bowl"),
     [["{Day} {N} was playing with a ball in the house.|{Day} {N} ran through the [kitchen|living room].|{Day} {N} was jumping on the chair.", "Crash! {P}'s {color} {vase} fell down and broke.|Then there was a crash. {P}'s {color} {vase} was on the floor, and it was broken."]],
     [["\"Oh no,\" said {N}. \"{P} will be mad.\"|{N} was scared. What would {P} say?|{N} did not know what to do.", "{He} put the pieces [under the rug|in a box|behind the door].|{He} hid the pieces.", "When {P} came home, {pe} asked, \"Where is my {vase}?\"|Soon, {P} came in. \"Have you seen my {vase}?\" {pe} asked.", "\"I do not know,\" said {N}.|\"Maybe the [cat|wind] took it,\" said {N}."],
      ["But {N} felt bad inside.|{N} could not eat and could not play.|That night, {N} could not sleep. {His} tummy felt bad.", "{He} did not like to tell a lie.|A lie is a heavy thing.|"]],
     [["So {N} went to {P}.|At last, {N} went to {P} and took {pis} hand.", "\"I broke your {vase},\" {he} said. \"I am so sorry.\"|\"It was me,\" said {N}. \"I broke it, and I am sorry.\"", "{P} was not mad.|{P} gave {him} a hug.|{P} looked at {him} and smiled.", "\"Thank you for telling the truth,\" said {P}.|\"A {vase} can be fixed,\" said {P}. \"I am glad that you told me.\""],
      ["Together they [fixed the {vase} with glue|made a new {vase}|cleaned the floor].", "{N} felt much better.|{N} felt light and happy again.", "{Link} {N} always told the truth.|{N} learned that it is best to tell the truth.|"]]),
    # a seed
    (dict(plant="flower|pumpkin|sunflower|apple tree|tomato plant|bean plant|rose"),
     [["{Day} {N} found a [tiny|little|small] seed.|{Day} {P} gave {N} a [tiny|little|small] seed.|{Day} a bird dropped a [tiny|little] seed near {N}.", "\"What will it be?\" {he} asked.|\"I will plant it,\" said {N}.|\"What can I do with it?\" {he} asked."]],
     [["{N} made a hole in the ground and put the seed in.|{N} put the seed in the soft ground.|{He} planted it in the garden.", "{He} gave it water every day.|Every morning, {he} gave it some water.", "But nothing came up.|One day passed. Two days passed. Nothing happened.", "\"Why does it not grow?\" asked {N}.|\"My seed is too slow,\" said {N}.|{N} was sad."],
      ["\"You have to wait,\" said {P}. \"Good things take time.\"|\"Be patient,\" said {F} the {fan}. \"It is growing under the ground.\"|\"It needs water, sun and time,\" said {P}.", "So {N} waited.|{N} waited and waited. {He} sang to the seed.|{N} did not give up."]],
     [["Then, one morning, {he} saw a little green leaf!|One day, something green came out of the ground.|After many days, there was a tiny green leaf.", "It grew and grew.|The little plant grew bigger every day.", "It was a beautiful {plant}!|Soon it was a big {plant}.|By the summer, it was the best {plant} in the garden."],
      ["\"Look, {P}! It is so big!\" said {N}.|{N} danced around it.|All the friends came to see it.", "{N} was glad that {he} had waited.|{N} learned to be patient.|{Link} {N} planted a new seed every year.|"]]),
    # a new friend
    (dict(play="play with a ball|build a house of sticks|play hide and seek|draw pictures|look for shells|fly a kite|make a mud cake"),
     [["{N} wanted a friend to play with.|{N} was a little lonely.|{N} often played alone.", "{Day} {friend} moved in next door.|{Day} {friend} came to live near {him}.|{Day} {he} saw {friend}."]],
     [["{F} looked shy.|{F} sat alone and looked sad.|{F} did not say a word.", "{N} wanted to say hello, but {he} was shy, too.|\"What if {ffe} does not like me?\" {N} thought.|{N} did not know what to say.", "\"Go and say hello,\" said {P}. \"Maybe {F} is shy, just like you.\"|{P} said, \"A smile is a good way to start.\"|\"Just be kind,\" said {P}."]],
     [["So {N} walked up to {F}.|{N} took a deep breath and went to {F}.", "\"Hello, I am {N}. Do you want to {play}?\"|\"Hi! My name is {N},\" {he} said. \"Let us {play}!\"", "{F} looked up and smiled.|{F} was so happy.|\"Yes, please!\" said {F}.", "They went out to {play}.|They played all day long.|They laughed and played until it was dark."]],
     [["\"I was afraid that nobody would like me here,\" said {F}.|\"I was so shy,\" said {F}.|\"This was fun,\" said {F}.", "\"Me too,\" said {N}. \"But now we are friends.\"|\"Come back tomorrow,\" said {N}.|\"I am glad you came,\" {N} said.", "{Link} they played together every day.|{Link} {N} was never lonely again.|And so {N} and {F} were best friends.|"]]),
    # the race
    (dict(prize="a {color} ribbon|a big cake|a golden cup|a shiny medal"),
     [["{Day} there was a big race in the [forest|village|park].|{Day} all the friends had a race.", "{N} wanted to win {prize}.|The best runner would get {prize}.|{N} had run every day to get ready."]],
     [["\"I will win,\" said {F} the {fan}. \"I am so fast!\"|{F} the {fan} wanted to win, too.|\"You are too slow,\" {F} the {fan} said to {N}.", "One, two, three, go!|\"Ready? Go!\" said {P}.", "They all ran down the hill.|{F} ran as fast as the wind. {N} was close behind.|They ran past the tree and over the bridge.", "But then {F} fell down.|Then {F} did not see a stone and fell.", "\"Ouch! My leg!\" cried {F}.|{F} could not get up."]],
     [["{N} could win now.|Now {N} was the first. {He} could see the end of the race.", "But {he} stopped and went back.|But {he} turned around.", "\"Are you hurt? Let me help you,\" said {N}.|\"Take my hand,\" said {N}. \"We will go together.\"", "{F} held on to {N}, and they walked slowly to the end.|They went on together, step by step."]],
     [["They were the last ones.|Somebody else won the race.", "But everyone clapped for {N}.|But {P} was very proud of {N}.|\"You are the real winner,\" everyone said.", "\"I am sorry that I was mean,\" said {F}. \"You are a good friend.\"|\"Thank you for helping me,\" said {F}.", "{N} did not get the prize, but {he} had a new friend.|{N} learned that being kind is better than winning.|"]]),
    # the baby bird
    (dict(baby="bird|owl|robin"),
     [["{Day} {N} was walking [in the woods|in the park|under the big tree].|{Day} {N} went for a walk [in the woods|in the park].", "{He} heard a small sound. Peep, peep!|\"Peep, peep,\" said something in the grass."]],
     [["It was a baby {baby}.|{N} looked down and saw a baby {baby}.", "It had fallen from its nest.|\"I fell out of my nest,\" said the baby {baby}. \"I can't fly yet.\"", "\"Do not be afraid. I will help you,\" said {N}.|\"Poor little thing,\" said {N}. \"Where is your mother?\"", "The nest was high up in the tree.|{N} looked up. The nest was so high!"],
      ["{N} tried to climb the tree, but {he} was too small.|{N} could not reach it.", "So {he} called {F} the {fan}.|Then {F} the {fan} came along.|{N} asked {F} the {fan} for help.", "\"Stand on my back,\" said {F}.|\"I know what to do,\" said {F}. {Ffe} got a long ladder.", "{N} held the baby {baby} very gently and went up, up, up.|Very slowly, {N} went up with the baby {baby}."]],
     [["{N} put the baby {baby} back in the nest.|At last, the baby {baby} was home.", "The mother came back. \"Thank you!\" she sang.|Its mother was so happy. She sang a song for them.", "{N} and {F} waved.|\"You are welcome,\" said {N} and {F}.", "Every morning, the bird came to sing at {N}'s window.|{Link} the birds always sang for {N}.|When the baby grew big, it flew down to say hello.|"]]),
    # the birthday
    (dict(),
     [["{Day} {N} woke up early. It was {his} birthday!|It was {N}'s birthday.|Today was a special day. It was {N}'s birthday!", "But nobody said happy birthday.|{He} ran to the kitchen, but nobody was there."]],
     [["{N} went to see {F} the {fan}.|{He} went to {F} the {fan}'s house.", "\"Can we play?\" {he} asked.|\"Do you know what day it is?\" asked {N}.", "\"Not now. I am busy,\" said {F}.|\"I am sorry, I have to go,\" said {F} and ran away.", "{N} asked {P}, but {P} was busy, too.|Even {P} had no time."],
      ["\"They all forgot,\" {N} thought.|{N} sat under a tree and felt very sad.|A tear ran down {his} face.", "Then {he} walked home slowly.|When it got late, {he} went home."]],
     [["The house was dark. {N} opened the door.|{N} opened the door.", "\"Surprise!\" everybody [shouted|called].|\"Happy birthday, {N}!\" everyone shouted.", "There was a big cake and many {color} balloons.|{P} had made a cake, and {F} had brought [a drum|a {color} kite|a book|flowers].", "\"We did not forget you,\" said {F}. \"We were making a surprise!\"|\"That is why we were so busy,\" said {P} with a smile."],
      ["{N} laughed and danced.|They sang and ate cake.|They played games all evening.", "It was the best birthday ever.|\"I have the best friends,\" said {N}."]]),
    # building together
    (dict(build="snowman|sand castle|treehouse|little boat|bridge over the stream|tower of blocks|house of sticks"),
     [["{Day} {N} wanted to make a {build}.|{Day} {N} had an idea. \"I will make a {build}!\" {he} said.", "\"I can do it all by myself,\" said {N}.|{He} started to work right away."]],
     [["{F} the {fan} came and asked, \"Can I help?\"|\"May I help you?\" asked {F} the {fan}.", "\"No, thank you,\" said {N}. \"I want to do it alone.\"|\"No,\" said {N}. \"I do not need help.\"", "{N} worked and worked.|It was hard work.", "But then it fell down. Boom!|But it fell apart.", "{He} tried again, and it fell down again.|\"Oh no!\" said {N}. {He} wanted to cry."]],
     [["{N} went to {F}.|\"{F}, I was wrong,\" said {N}.", "\"Will you help me, please?\" {he} asked.|\"It is too big for one. Can we do it together?\"", "\"Of course,\" said {F}.|{F} smiled. \"I have a good idea,\" {ffe} said.", "{F} held one side, and {N} held the other side.|{F} brought what they needed, and {N} put it together.|They worked side by side."]],
     [["Soon the {build} was done.|At the end of the day, there was a great {build}.", "It was big and strong.|It was the best {build} that they had ever seen.", "\"We did it!\" they said.|{P} came to look. \"What a fine {build}!\" {pe} said.", "{N} learned that it is good to work together.|\"It is more fun with two,\" said {N}.|{Link} they always helped each other.|"]]),
    # the key
    (dict(box="door|box|gate|chest", inside="a beautiful garden full of flowers|a tiny room full of books|a music box that played a soft song|a map of the stars|a nest of little birds|a small lamp that shone like the moon"),
     [["{Day} {N} found an old key [in the garden|under a stone|near the river|in the attic].|{Day} something shiny was [in the grass|under a stone]. It was an old key.", "\"What does it open?\" {he} asked.|\"I wonder what this key is for,\" said {N}."]],
     [["{He} tried the front door. It did not fit.|{N} tried it on every door in the house. It did not fit.", "{He} showed it to {F} the {fan}.|{N} asked {F} the {fan} about the key.", "\"I have seen an old {box} [behind the hill|near the big tree|at the end of the path],\" said {F}.|\"Come with me,\" said {F}. \"I know an old {box}.\"", "So they went to look.|They walked for a long time.|They walked past the pond and over the hill."],
      ["There was a small {color} {box}.|And there it was, an old {color} {box}.", "{N} put the key in. Click!|The key went click, and the {box} opened slowly."]],
     [["Inside, there was {inside}.|They saw {inside}.", "\"Wow,\" said {F}. \"It is so pretty.\"|\"Oh!\" said {N}. {He} could not believe it.|They looked at it for a long time.", "\"It will be our secret place,\" said {N}.|\"We must take care of it,\" said {F}.|They ran home to tell {P} about it."],
      ["{Link} they came back every day.|Every day, {N} and {F} went there together.|{N} kept the key in a safe place.", ""]]),
    # a sick friend
    (dict(gift="warm soup|flowers|a picture|a soft blanket|a cup of tea|a funny hat"),
     [["{N} and {F} the {fan} were good friends.|{N} had a good friend. It was {F} the {fan}.", "They played together every day."],
      ["{Day} {F} did not come out to play.|{Day} {N} waited, but {F} did not come.", "{N} went to {F}'s house.|\"Where is {F}?\" {N} asked {P}."]],
     [["{F} was in bed. {Ffe} was sick.|\"I am sick,\" said {F} in a small voice.", "\"I can't run and I can't play,\" said {F}.|{F} looked so sad.", "{N} wanted to help.|\"What can I do?\" {N} thought.", "{He} went home and came back with {gift}.|{He} thought and thought. Then {he} ran home to get {gift}."],
      ["\"This is for you,\" said {N}.|\"Here, this will make you feel better,\" said {N}.", "{He} sat by the bed and told funny stories.|{N} read a book to {ffim} and sang a song.", "{F} laughed.|{F} smiled for the first time that day."]],
     [["The next day, {F} felt better.|After a few days, {F} was well again.", "\"You made me feel better,\" said {F}.|\"Thank you for being with me,\" said {F}.", "Then they ran out to play in the sun.|They went outside and played all day.", "A good friend is the best medicine.|{N} was happy to have {ffis} friend back.|"]]),
    # too much
    (dict(food="cookies|berries|plums|cakes|cherries|honey candies|pancakes"),
     [["{N} loved {food}.|{N} liked {food} more than anything.", "{Day} {P} made a big plate of {food}.|{Day} {he} saw a big bowl of {food} on the table."]],
     [["\"You can have two,\" said {P}. \"The rest is for the party.\"|\"Do not eat them all,\" said {P}.", "{N} ate one. It was so good.|{N} ate two. They were so sweet.", "\"One more will be fine,\" {he} thought.|{He} wanted more.", "{He} ate another one, and another one.|So {he} ate and ate until the plate was empty."],
      ["Soon, {N} did not feel well.|Then {his} tummy began to hurt.", "\"Oh, my tummy hurts,\" said {N}.|\"Ow, ow, ow!\" cried {N}.", "{P} came in and saw the empty plate.|{P} looked at the plate, and then at {N}."]],
     [["\"I am sorry,\" said {N}. \"I ate them all.\"|\"I ate too many,\" {he} said. \"I am sorry.\"", "{P} put {him} to bed and gave {him} some tea.|\"Now you must rest,\" said {P}.", "The next day, {N} helped {P} to make more {food} for the party.|When {he} felt better, {N} and {P} made new {food} for everyone."],
      ["And this time, {he} ate only two.|{N} gave the {food} to all {his} friends.", "{N} learned that too much is not good.|{N} learned not to be greedy.|"]]),
    # lost on the way home
    (dict(light="a firefly|an old owl|a kind deer|the moon"),
     [["{Day} {N} went for a walk in the woods.|{Day} {N} followed a {color} butterfly into the woods.", "{He} walked far, far away.|{He} looked at the flowers and the trees."]],
     [["Soon it was dark.|Then the sun went down.", "{N} did not know the way home.|\"Where am I?\" said {N}. {He} was lost.", "\"I want to go home,\" {he} cried.|{He} was scared and sat down on a log."],
      ["Then {light} came.|Then {he} saw {light}.", "\"Follow me,\" said a soft voice. \"I will show you the way.\"|\"Do not be afraid,\" it said. \"I know the way to your house.\"", "{N} followed, step by step.|{N} walked over the hill and past the pond.", "And there was {his} house, with a light in the window!|Soon {he} saw {his} house."]],
     [["{P} ran out and hugged {him}.|\"{N}! There you are!\" said {P}.", "\"I was so worried,\" said {P}.|\"I will not walk so far alone again,\" said {N}.", "{N} turned around to say thank you.|\"Thank you,\" {N} called into the night.", "{Link} {N} always stayed close to home.|{N} ate warm soup and told {P} everything.|{N} was glad to be home.|"]]),
    # small but helpful
    (dict(trouble="key fell into a small hole|ring fell behind the wall|ball rolled into a small cave|bell fell into a crack in the rock"),
     [["{N} was the smallest of all {his} friends.|{N} was very small.", "\"You are too small to help,\" the others [said|always said].|{He} could not do what the big ones did."]],
     [["{Day} {F} the {fan} called for help.|{Day} {F} the {fan} was very sad.", "\"Oh no!\" said {F}. \"My {trouble}!\"|{Ffis} {trouble}.", "The big bear tried to get it, but his arm was too big.|A strong horse tried to help, but he was too big.", "Nobody could get it out.|Nobody knew what to do."],
      ["\"I can try,\" said {N}.|\"Let me help,\" said {N}.", "The others laughed. \"You? You are too small!\"|\"But you are so small,\" they said.", "\"That is why I can do it,\" said {N}.|But {N} was not afraid."]],
     [["{He} went in. It was dark.|{N} made {himself} very small and went in.", "Everybody waited.|It took a long time.", "Then {N} came out again, and {he} had it!|\"I have it!\" called {N}."],
      ["\"Hooray!\" everyone shouted.|{F} jumped for joy. \"Thank you, {N}!\"", "\"We are sorry that we laughed,\" they said.|\"You are small, but you are a big help,\" said {F}.", "{N} was very proud.|{N} learned that small ones can do big things.|"]]),
    # a rainy day
    (dict(game="a boat|a castle|a train|a rocket|a ship", goes="the sea|the moon|a far island|the land of snow"),
     [["{Day} it rained and rained.|It was a rainy day.", "{N} could not go outside.|\"I can't play outside,\" said {N}.", "{He} was bored.|\"I am so bored,\" {he} said."]],
     [["{N} found a big box.|{P} gave {him} a big box.", "\"It is just a box,\" said {N}.|What could {he} do with it?", "\"A box can be anything,\" said {P}.|Then {he} had an idea.", "\"This is not a box. It is {game}!\" said {N}.|{N} made a door and a window. Now the box was {game}."],
      ["{F} the {fan} came to play.|Soon, {F} the {fan} came in, too.", "\"Come in! We will go to {goes},\" said {N}.|\"Where are we going?\" asked {F}. \"To {goes}!\" said {N}.", "They saw big fish and tall trees.|They sang and waved and looked for stars.", "\"Look out! A dragon!\" called {F}, but it was only the cat.|They met a king, and it was {P} with a paper hat."]],
     [["When they came out, the rain had stopped.|Then the sun came out again.", "\"Do you want to go outside?\" asked {P}.|\"You can play outside now,\" said {P}.", "\"Not yet,\" said {N}. \"We are still at {goes}!\"|But {N} and {F} did not want to stop.", "They all laughed.|It was the best rainy day ever."]]),
    # a noise at night
    (dict(maker="kitten|puppy|mouse|frog|baby bird|hedgehog"),
     [["One night, {N} was in bed.|One night, {N} could not sleep.", "{He} heard a noise. Tap, tap, tap!|There was a strange noise at the door.|Scratch, scratch! Something was at the window."]],
     [["\"Who is there?\" asked {N}.|\"Is it a monster?\" {he} thought.", "Nobody said a word.|The noise came again.", "{N} was afraid, but {he} wanted to know.|{N} called {his} {p}. They took a lamp and went to look.", "Slowly, {he} opened the door.|Step by step, {he} went to the door and opened it."],
      ["There was no monster. It was a little {maker}!|And there sat a tiny {maker}. It was wet and cold.", "\"Oh, you poor thing,\" said {N}.|\"You are not a monster,\" {N} laughed.", "{N} gave it some [milk|food] and a warm blanket.|{He} let it in and made a bed in a box."]],
     [["The {maker} went to sleep, and {N} slept, too.|Soon they were both asleep.", "In the morning, {N} asked, \"Can it stay?\"|\"Can we keep it?\" {he} asked in the morning.", "\"Yes, it can,\" said {P}.|{P} smiled. \"If you take good care of it,\" {pe} said.", "{N} called it [Star|Moon|Tap|Lucky|Midnight].|Now {N} had a new friend.", "{Link} {N} was not afraid of noises in the night.|"]]),
    # the lonely dragon
    (dict(beast="dragon|giant|big bear|monster"),
     [["Everyone was afraid of the {beast} on the hill.|A {beast} lived in a cave on the hill, and everyone was afraid of it.", "\"Do not go there,\" said {P}.|\"It is big and it is loud,\" they said."]],
     [["{Day} {N} heard somebody cry.|{Day} {N} lost {his} way and came to the cave.", "{He} looked into the cave.|It came from the cave. {N} went closer.", "It was the {beast}! It had big tears in its eyes.|The {beast} sat there all alone and cried."],
      ["\"Why do you cry?\" asked {N}.|\"What is wrong?\" {N} asked.", "\"I have no friends,\" said the {beast}. \"They all run away.\"|\"Today is my birthday, and nobody came,\" said the {beast}.", "{N} was not afraid now.|{N} felt sorry for the {beast}.", "\"I can be your friend,\" said {N}.|\"Come with me,\" {he} said. \"Let us have tea.\""]],
     [["They went down the hill together.|{N} took the {beast} to the village.", "At first, everybody ran away.|\"Help! The {beast}!\" they cried.", "\"Wait!\" said {N}. \"It is kind. It only wants to play.\"|\"Do not be afraid,\" said {N}. \"This is my friend.\""],
      ["The {beast} [carried the children on its back|fixed the old bridge|made a warm fire for everyone|told funny stories].", "Soon everyone laughed and was happy.|Now they all liked the {beast}.", "{Link} the {beast} was never lonely again.|{N} learned that you must not be afraid of someone who looks different.|"]]),
    # helping someone old
    (dict(work="carry the bags|find the lost glasses|pick the apples|bring the wood into the house|feed the hens|wash the dishes"),
     [["{Day} {N} met an old [man|woman] on the road.|An old [man|woman] lived next door.", "{N} wanted to go and play with {F} the {fan}.|{N} was on the way to the park."]],
     [["\"Can you help me to {work}?\" asked the old one.|\"I am too tired to {work},\" said the old one.", "{N} looked at the park. {He} wanted to play.|{N} thought for a moment.", "\"Yes, I will help you,\" {he} said.|But {he} was kind. \"I can help,\" said {N}.", "It took a long time.|It was a lot of work, but {N} did not stop."],
      ["When {N} came to the park, {F} asked, \"Where were you?\"|{F} came to look for {him}. \"What are you doing?\" {ffe} asked.", "\"I had to help,\" said {N}.|\"I am helping,\" said {N}. \"Will you help, too?\"", "\"That is very nice of you,\" said {F}.|So they did it together."]],
     [["The next day, there was a box at {N}'s door.|When the work was done, the old one came out with a box.", "In it, there was [a warm cake|a {color} scarf|a little wooden boat|a {color} kite].", "\"Thank you for your help,\" said the old one.|\"For my kind helper,\" it said on the box.", "{N} shared it with {F}.|{N} was so happy.", "It feels good to help.|{Link} {N} came to help every week.|"]]),
    # baking
    (dict(bake="cake|pie|loaf of bread|plate of cookies|pan of muffins"),
     [["{Day} {N} wanted to make a {bake} for {P}.|{Day} {P} said, \"Let us make a {bake} today.\"|{Day} {N} and {P} were in the kitchen to make a {bake}.", "{N} put on a big {color} apron.|\"I will be the cook,\" said {N}."]],
     [["First, they took flour, eggs and milk.|First, they mixed flour and sugar in a big bowl.", "{N} stirred and stirred.|{N} broke the eggs very carefully.", "Oops! The flour went all over the floor.|Then the bowl tipped over. There was flour everywhere!", "{N} was white from head to toe.|There was flour on the table, on the floor and on {N}'s nose.", "\"Oh no,\" said {N}. \"I made a mess.\"|{N} wanted to cry. \"Now it is all bad,\" {he} said."],
      ["But {P} began to laugh.|{P} smiled. \"That is all right,\" {pe} said.", "\"You look like a snowman!\" {pe} said.|\"Every cook makes a mess sometimes,\" said {P}.", "They cleaned up and started again.|They swept the floor together. Then they tried again."]],
     [["Soon the kitchen smelled so good.|At last, the {bake} was ready.", "They gave some to {F} the {fan}, too.|{F} the {fan} came by, and they all ate together.", "\"This is the best {bake} ever,\" said {F}.|It was warm and sweet.", "{N} learned that it is fine to make mistakes.|\"Can we do it again tomorrow?\" asked {N}.|{Link} {N} helped in the kitchen every week.|"]]),
    # a wish
    (dict(wish="puppy|kitten|pony|baby duck"),
     [["Every night, {N} looked at the stars.|{N} had no one to play with.", "One night, {he} saw a star fall.|One night, there was a very bright star.", "\"I wish I had a {wish},\" {he} said softly.|{N} closed {his} eyes. \"I wish for a {wish},\" {he} said."]],
     [["In the morning, {N} ran to the window. There was no {wish}.|The next day, {he} looked for it everywhere. There was no {wish}.", "\"The star did not hear me,\" {he} said.|{N} was a little sad.", "\"Wishes need time,\" said {P}.|\"Maybe you have to be ready for it,\" said {P}.", "So {N} made a soft bed in a box.|{N} found a bowl and an old blanket."],
      ["A few days later, {N} heard a small sound in the barn.|{Day} it rained, and somebody cried at the gate.", "It was a {color} ribbon, and the ribbon was on a tiny {wish}!|It was a tiny {wish}. It had no home.", "\"My wish!\" cried {N}.|{N} could not believe it."]],
     [["\"Can we keep it?\" asked {N}. \"Yes,\" said {P}.|{P} nodded. \"It can stay with us.\"", "{N} gave it food and water every day.|{N} took good care of it.", "That night, {N} looked up and said, \"Thank you, star.\"|At night, they looked at the stars together."]]),
    # a new baby
    (dict(baby="brother|sister"),
     [["{Day} a new baby came to the house.|{N} had a new baby {baby}.", "Everyone looked at the baby.|The baby was very small and very loud."]],
     [["\"Play with me,\" said {N}. \"Not now,\" said {P}. \"The baby has to sleep.\"|\"Read me a book,\" said {N}. \"Later,\" said {P}. \"The baby is hungry.\"", "{N} was not happy.|{N} was a little angry.", "\"Nobody loves me now,\" {he} thought.|{He} went to {his} room and shut the door."],
      ["Then the baby began to cry.|{Day} the baby cried and cried.", "{P} sang a song, but the baby did not stop.|Nobody could make it stop.", "{N} came in and made a funny face.|{N} took {his} teddy bear and made it dance.", "The baby stopped. It looked at {N} and laughed!|And the baby smiled for the very first time!"]],
     [["\"You did it!\" said {P}. \"The baby loves you.\"|\"Only you can do that,\" said {P}.", "{P} took {N} in {pis} arms. \"I have love for two,\" {pe} said.|\"I will always love you, too,\" said {P} and hugged {him}.", "{N} felt warm inside.|{N} gave the baby a soft kiss.", "{Link} {N} was a proud big [helper|friend] for the baby.|\"I will teach you everything,\" {he} told the baby.|"]]),
    # the first day at school
    (dict(),
     [["It was the first day of school.|Today {N} had to go to school for the first time.", "{N} held {P}'s hand very tight.|{N} did not want to go."]],
     [["\"What if nobody talks to me?\" asked {N}.|\"I want to stay at home with you,\" said {N}.", "\"It is fine to be a little scared,\" said {P}.|{P} put a small {color} stone in {his} hand. \"This is for luck,\" {pe} said.", "There were so many faces in the room.|The room was big and loud.", "{N} sat down in the last row.|{N} sat alone and looked at {his} feet."],
      ["Next to {him} sat {F} the {fan}. {Ffe} was crying.|Then {he} saw {F} the {fan}. {Ffe} looked scared, too.", "\"Is it your first day, too?\" asked {N}.|\"Do not cry,\" said {N}. \"I am new here, too.\"", "{F} nodded.|\"Yes,\" said {F} softly.", "{N} gave {ffim} half of {his} apple.|\"We can sit together,\" said {N}."]],
     [["They drew pictures and sang songs.|They learned to count to ten.", "When {P} came, {N} did not want to go home.|At the end of the day, {N} ran to {P}.", "\"Can I go again tomorrow?\" {he} asked.|\"I have a friend!\" said {N}.", "School was not scary at all.|{P} laughed and hugged {him}.|"]]),
    # the kite in the tree
    (dict(thing="kite|ball|balloon|hat"),
     [["{Day} {N} was playing with {his} {color} {thing}.|{Day} the wind took {N}'s {color} {thing} away.", "It flew up, up, up, and it got stuck in a tall tree.|Oh no! It landed in the top of a tall tree."]],
     [["{N} jumped, but {he} could not reach it.|{N} shook the tree, but nothing happened.", "{He} threw a stick. The stick got stuck, too!|{He} tried to climb, but the tree was too high.", "\"What can I do?\" said {N}.|\"My poor {thing},\" said {N}."],
      ["{F} the {fan} came by. {Ffe} jumped, but it was too high.|{F} the {fan} wanted to help, but {ffe} was too short.", "Then a bear came by. He was tall, but not tall enough.|Then a goat came, and then a dog. Nobody could reach it.", "\"I have an idea,\" said {N}.|\"Wait,\" said {F}. \"We can do it together.\"", "The bear stood at the bottom. {F} stood on the bear, and {N} stood on {F}.|They stood on top of each other, like a tower."]],
     [["Up, up, up. And {N} had the {thing}!|{N} reached out, and there it was!", "They all fell into the soft grass and laughed.|\"Hooray!\" they all shouted.", "\"Thank you, my friends,\" said {N}.|\"I could not do it alone,\" said {N}.", "Then they all played together.|{N} learned that friends can reach higher together.|"]]),
    # lost at the market
    (dict(look="a man with funny hats|the sweet red apples|a box of kittens|a bird in a cage|the bright balloons"),
     [["{Day} {N} and {P} went to the market.|{Day} {P} took {N} to the big market.", "\"Stay close to me,\" said {P}.|\"Hold my hand,\" said {P}."]],
     [["There were so many things to see.|The market was full of people.", "{N} stopped to look at {look}.|{N} saw {look}. {He} wanted to look for just a moment.", "When {he} turned around, {P} was gone!|Then {he} looked up. Where was {P}?", "{N} ran this way. {N} ran that way.|\"{P}? {P}!\" {he} called.", "{He} could not see {P}. {N} began to cry.|{His} heart went boom, boom, boom."],
      ["Then {N} remembered what {P} had said.|Then {he} took a deep breath and thought.", "\"If you are lost, stay where you are and ask for help.\"|\"If you can't find me, wait by the big clock.\"", "So {N} went to a kind woman who sold bread.|{N} told a kind man at the flower shop.", "\"We will wait together,\" she said.|\"Do not worry. We will find your {p},\" said the kind one."]],
     [["Soon {P} came running.|And there was {P}!", "\"{N}! I was so scared,\" said {P}.|{P} hugged {him} for a long time.", "\"You were very smart to ask for help,\" said {P}.|\"I am sorry,\" said {N}. \"I will stay close now.\"", "Then they went home, hand in hand.|{Link} {N} always held {P}'s hand at the market.|"]]),
    # the winter
    (dict(warm="scarf|blanket|pair of mittens|coat|hat"),
     [["It was winter, and the snow was deep.|It was a cold winter day. Snow was on the ground.", "{N} had a warm {color} {warm}.|{P} had made a new {color} {warm} for {N}."]],
     [["{N} went out to play in the snow.|{N} went for a walk.", "Under a tree, {he} saw {F} the {fan}.|Then {he} met {F} the {fan}.", "{F} was very cold.|\"I am so cold,\" said {F}.", "\"Do you have no {warm}?\" asked {N}. \"No,\" said {F}.|{F} was shaking and could not play."],
      ["{N} looked at the {warm}. {He} loved it so much.|{N} thought about it.", "But {F} was so cold.|But a friend is more than a {warm}.", "\"Here, you can have it,\" said {N}.|\"Take this,\" {he} said, and gave it to {F}.", "{F} smiled. \"Now I am warm. Thank you!\"|\"It is so warm,\" said {F} with a big smile."]],
     [["Now {N} was cold, so {he} ran home.|{N} went home and told {P}.", "{P} was not angry. \"You have a warm heart,\" {pe} said.|\"That was very kind,\" said {P}.", "That evening, {P} made a new {warm}, just like the first one.|{P} gave {him} hot milk and began to make a new {warm}.", "The next day, {N} and {F} made a snowman together.|The next day, they both played in the snow.|"]]),
    # the shy singer
    (dict(art="sing|dance|play the flute|tell a story"),
     [["{N} could {art} very well, but nobody knew it.|{N} loved to {art}, but only when {he} was alone.", "{He} was too shy.|{He} was afraid that they would laugh."]],
     [["{Day} there was a big party in the village.|{Day} they had a party by the lake.", "Everyone had to show something.|\"Who wants to show us something?\" asked {P}.", "{F} the {fan} jumped over a log. Everyone clapped.|{F} the {fan} stood on one leg. Everyone laughed and clapped.", "Then it was {N}'s turn.|\"Now you, {N},\" said {F}."],
      ["{N} looked at all the faces. {His} knees shook.|{N} wanted to run away.", "\"I can't,\" {he} said.|{He} could not say a word.", "\"Close your eyes and think that you are alone,\" said {F}.|\"Just look at me,\" said {F}. \"I am your friend.\"", "{N} closed {his} eyes and began to {art}.|So {N} looked at {F} and began to {art}."]],
     [["It was so quiet. It was so beautiful.|Nobody made a sound. They all listened and looked.", "When it was over, everyone clapped and cheered.|\"More, more!\" they called.", "\"That was wonderful!\" said {F}.|{N} opened {his} eyes and smiled.", "{Link} {N} was not so shy.|{N} learned to be brave.|\"I did it,\" {N} said. {He} was so proud."]]),
    # the boat trip
    (dict(see="a big whale|three dolphins|a green turtle|an island with a tall tree|a golden fish"),
     [["{Day} {N} and {F} the {fan} made a boat.|{Day} {N} and {F} the {fan} found an old boat.", "\"Let us go out on the water,\" said {N}.|\"We will see the world,\" said {F}."]],
     [["They took bread and apples and a {color} flag.|They put the boat on the water and waved to {P}.", "The sun was warm, and the water was blue.|The little boat went up and down on the waves.", "They saw {see}.|\"Look!\" called {F}. There was {see}.", "But then the wind came, and the waves got bigger.|Then dark clouds came. The boat began to rock."],
      ["\"There is a hole in the boat!\" cried {F}.|Water came into the boat.", "{N} was afraid, but {he} had an idea.|\"Do not be afraid,\" said {N}. \"I know what to do.\"", "{He} put {his} hat on the hole, and {F} threw the water out.|{He} held up the flag so that everyone could see it.", "A friendly whale pushed them back to the land.|A big turtle came and pulled them back to the beach."]],
     [["{P} was waiting for them.|Soon they were safe on the beach.", "\"What a trip!\" said {F}.|They were wet, but they were happy.", "\"Next time, we will make a better boat,\" said {N}.|\"Thank you for your help,\" they said to their new friend.", "Then they sat by the fire and ate warm soup.|{Link} they told everyone about their trip.|"]]),
    # slow and careful
    (dict(find="a shiny coin|a tiny golden bell|a four leaf clover|a blue egg|a lost ring"),
     [["{N} was very slow.|{N} did everything slowly.", "\"Hurry up!\" everyone said.|{F} the {fan} was always fast. \"Come on, {N}!\" {ffe} said."]],
     [["{Day} the teacher lost something in the park.|{Day} {P} lost something on the way home.", "\"It is very small,\" {P} said. \"Please help me to find it.\"|Everyone came to help.", "{F} the {fan} ran here and there. {Ffe} found nothing.|The others ran up and down. They found nothing.", "\"It is not here,\" they said, and went home.|Soon they were tired and sat down."],
      ["But {N} walked slowly and looked at everything.|{N} went step by step.", "{He} looked under every leaf.|{He} looked behind every stone.", "And there, in the grass, was {find}!|Then {he} saw something. It was {find}!", "\"Is this it?\" asked {N}. \"Yes!\" said {P}."]],
     [["Everyone was surprised.|\"How did you do it?\" asked {F}.", "\"I was slow,\" said {N} with a smile.|\"When you go slowly, you see more,\" said {N}.", "{Link} nobody said \"hurry up\" to {N}.|{Link} {F} walked slowly with {N}, and they saw many pretty things.|"]]),
    # the moon
    (dict(),
     [["One night, {N} looked out of the window.|One night, {N} could not sleep.", "The moon was big and round.|The moon looked at {him} like a face.", "\"I want to touch the moon,\" said {N}.|\"Can I have the moon?\" {he} asked."]],
     [["{He} climbed on a chair. The moon was too high.|{N} stood on the bed and reached up. It was too far.", "{He} went up the hill. The moon was still too high.|{N} and {F} the {fan} went up the hill, but the moon was still far away.", "\"Moon, come down!\" {he} called. But the moon did not come.|\"Please come down,\" said {N}. The moon said nothing."],
      ["{N} was sad and walked home past the pond.|On the way back, {he} came to the pond.", "And there, in the water, was the moon!|{He} looked into the water. There was the moon, round and bright!", "{N} put a finger in the water, very softly.|{N} put {his} hand into the cool water.", "The moon danced and laughed.|The moon broke into a hundred little lights, and then it was round again."]],
     [["\"I touched the moon!\" said {N}.|\"Now I have touched the moon,\" {he} said.", "{P} came to take {him} home.|{He} ran home to tell {P}.", "\"The moon will be here tomorrow, too,\" said {P}.|\"Good night, moon,\" said {N}.", "Then {N} fell asleep, and the moon looked in at the window.|"]]),
]


def spin(text, rng):
    """Resolve [a|b] choices, innermost first."""
    while True:
        m = re.search(r"\[([^\[\]]*)\]", text)
        if not m:
            return text
        text = text[:m.start()] + rng.choice(m.group(1).split("|")) + text[m.end():]


def split_top(text):
    """Split on | outside brackets."""
    parts, depth, cur = [], 0, ""
    for c in text:
        depth += (c == "[") - (c == "]")
        if c == "|" and depth == 0:
            parts.append(cur)
            cur = ""
        else:
            cur += c
    return parts + [cur]


def polish(text):
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    text = re.sub(r" +", " ", text).strip()
    return re.sub(r"(^|[.!?]\"? )(\"?)([a-z])", lambda m: m.group(1) + m.group(2) + m.group(3).upper()
                  if not (m.group(1).endswith('" ') and not m.group(1).endswith('." ')) else m.group(0), text)


def cast(rng):
    girl, fgirl, pgirl = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.6
    animal = rng.random() < 0.45
    species = rng.choice(ANIMALS)
    name = rng.choice(PETS) if animal and rng.random() < 0.6 else rng.choice(GIRLS if girl else BOYS)
    friend = rng.choice([n for n in PETS if n != name]) if rng.random() < 0.6 else \
        rng.choice([n for n in (GIRLS if fgirl else BOYS) if n != name])
    kind = species if animal else rng.choice(["girl", "girl", "child"] if girl else ["boy", "boy", "child"])
    fan = rng.choice([a for a in ANIMALS if a != species])
    adj = rng.choice(ADJ)
    he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
    fhe, fhim, fhis = ("she", "her", "her") if fgirl else ("he", "him", "his")
    parent = rng.choice(["Mom", "Mom", "Grandma"] if pgirl else ["Dad", "Dad", "Grandpa"])
    return dict(
        N=name, F=friend, fan=fan, he=he, him=him, his=his, He=he.title(), His=his.title(), himself=him + "self",
        ffe=fhe, ffim=fhim, ffis=fhis, Ffe=fhe.title(), Ffis=fhis.title(), P=parent, p=parent.lower(),
        pe="she" if pgirl else "he", pis="her" if pgirl else "his",
        hero="a %s %s named %s" % (adj, kind, name) if rng.random() < 0.8 else "a %s %s called %s" % (adj, kind, name),
        hero0="a %s %s" % (adj, kind), friend="a %s %s named %s" % (rng.choice(ADJ), fan, friend),
        color=rng.choice(COLORS), weather=rng.choice(WEATHER))


def tale(rng):
    plot = rng.choice(PLOTS)
    slots = cast(rng)
    for key, options in plot[0].items():
        slots[key] = spin(rng.choice(split_top(options)), rng).format(**slots)

    def say(variants):
        text = rng.choice(split_top(variants) if isinstance(variants, str) else variants)
        text = text.replace("{Day}", rng.choice(ONE_DAY)).replace("{Link}", rng.choice(MORAL_LINK))
        return spin(text, rng).format(**slots)

    paragraphs = []
    for n, parts in enumerate(plot[1:]):
        lead = [say(OPEN), say(TRAIT)] if n == 0 else []
        if n == 0 and rng.random() < 0.25:  # some stories start without the usual opening line
            lead = lead[:1]
        groups = [[s for s in lead + [say(v) for v in group] if s] if i == 0 else [s for s in map(say, group) if s]
                  for i, group in enumerate(parts)]
        if rng.random() < 0.6:
            groups = [sum(groups, [])]
        paragraphs += [polish(" ".join(g)) for g in groups if g]
    end = say(END)
    if end:
        if rng.random() < 0.5:
            paragraphs[-1] += " " + end
        else:
            paragraphs.append(end)
    return paragraphs


if __name__ == "__main__":
    rng = random.Random()
    for _ in range(6):
        print("\n\n".join(tale(rng)) + "\n" + "=" * 60)
