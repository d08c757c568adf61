"""Word lists of the tasks: keys the bundled model was never trained on, and the vocabulary of the essay grammar.

`KEYS` extends the held-out part of the bundled model's word lists, which is too short for lists of more than a few hundred tokens.
No word of it is in the training part of those lists.
"""

from __future__ import annotations

import dataclasses
import random

from kvlab.bundled.words import HELD_OUT

ADJECTIVES = tuple(
    """agile ample arid ashen astute austere azure balmy barren bashful beige blazing blissful bluish blunt bouncy brash breezy brisk brittle bronze
    bubbly bulky bumpy bushy candid carefree chalky charming chilly chubby chunky classy clumsy cobalt comical coppery cordial cozy crafty crispy
    cuddly cunning curly dainty damp dapper daring dazzling dusky dusty earthy elated elegant emerald fearless feisty festive fiery flaky flashy
    fluffy foamy foggy fragile fragrant frail frosty frugal fuzzy gallant gaunt gifted glassy gleaming gloomy glossy gracious grainy grassy
    greasy grumpy gusty hardy hasty hazy hearty hoarse homely humid husky inky ivory jaded jagged jaunty jovial joyful juicy khaki lanky lavish
    leafy lilac limber lively lofty lush magenta maroon meek mellow merry mild milky minty misty moody mossy muddy muted mystic nimble noisy
    nutty oaken oily ornate patient pearly peppery perky petite plump plush prickly pristine pudgy quaint quirky rainy reddish rosy rugged rural
    rustic salty sandy sassy savory scenic shabby shaggy sheepish silky sincere skinny sleek slender slim slippery snappy snowy snug soapy sober
    somber sooty sour sparkling speedy spiky spirited spotted sprightly squeaky stark starry steamy steep stocky stormy striped sturdy sullen
    sultry supple surly tangy tawny teal tepid thirsty timid tranquil turquoise twinkling upbeat vexed vibrant vivid wavy weary whimsical wiry
    witty wobbly woolly yellowish zany zealous""".split()
)
NOUNS = tuple(
    """abbey acorn acrobat albatross alligator almanac amulet antelope apricot apron aquarium armadillo artichoke asparagus avocado axe baboon bagel
    bamboo banana banjo barley barometer bassoon bathtub beacon beetle bicycle bison blanket blossom blueberry bonfire bonnet boomerang boulder
    bracelet broccoli broom buffalo bugle bulldog buttercup butterfly cabbage cactus caravan cardigan caribou carousel cashew catapult
    caterpillar cathedral cello chandelier cheetah chestnut chimney chimpanzee chisel cinnamon clarinet cobra coconut cormorant cottonwood cougar
    coyote cradle cranberry crayon cricket crocodile cucumber cushion cymbal daffodil dandelion dingo doorbell doughnut dragonfly drawbridge
    dumpling eggplant elephant faucet fern ferry fiddle flamingo foxglove freighter frigate gazebo gazelle geyser giraffe gondola gooseberry
    gopher gorilla grasshopper griddle grotto gull hammock hamster harmonica harpoon harpsichord hatchet hawthorn hazelnut hedgehog helicopter
    hippo honeycomb hornet horseshoe hourglass hyacinth hyena icicle iguana impala inkwell jackal jasmine jellyfish jigsaw juniper kayak kimono
    kingfisher kitten kiwi knapsack ladle lagoon lavender leopard lettuce lighthouse limousine lizard llama lobster locket locomotive lullaby
    macaw magnolia magpie mallard mammoth mandolin manatee mandarin marigold marmot mattress meerkat millstone minnow mitten mongoose moose
    mosquito moth muffin mulberry mushroom narwhal necklace nectarine nightingale nutmeg octopus omelet orangutan orchid oregano oriole ostrich
    overcoat oyster pagoda pancake panther papaya parachute parasol parrot parsley parsnip peacock peanut pebble pelican penguin peony pheasant
    pigeon pinecone pineapple pistachio platypus pomegranate popcorn poppy porcupine possum pretzel puffin pumpkin puppet pyramid quiche raccoon
    radish raspberry rattlesnake reindeer rhinoceros rhubarb rooster rosemary saffron sailboat sandal sapphire sardine saxophone scallop
    scarecrow schooner scooter seagull seahorse seaweed shamrock shovel shrimp skateboard skunk sledge snowflake snowman sofa sparrow spatula
    spinach squid squirrel stallion starfish strawberry submarine sunflower swan sycamore tambourine tangerine tapestry tarantula teapot
    telescope termite thimble thistle toaster tortoise toucan tractor treadmill tricycle trombone trout tulip turnip typewriter unicorn urchin
    vulture wagtail warthog wasp waterfall watermelon weasel wheelbarrow wigwam wildebeest willow windmill wolverine wombat woodpecker wreath
    xylophone yacht zeppelin zucchini""".split()
)
NAMES = tuple(
    """Agnes Albert Amelia Anton Arthur Astrid Barbara Benjamin Bernard Brigitte Carmen Caspar Cecilia Charlotte Clement Colin Cynthia Damian
    Deborah Dominic Dorothy Edith Edmund Eleanor Elliot Esther Eugene Felicity Flora Francis Geoffrey Gertrude Gilbert Gordon Harriet Harvey
    Hector Hilda Horace Ingrid Jasper Jerome Josephine Judith Karl Katharine Leonard Lillian Louisa Lydia Magnus Marcus Margaret Matilda
    Maurice Melissa Mildred Miriam Nadia Natalie Nigel Norman Octavia Ophelia Patricia Percy Phoebe Priscilla Ralph Rebecca Roderick
    Rosalind Rupert Sabrina Sebastian Sheila Silvia Stanley Sylvester Tabitha Theodore Tobias Valerie Vanessa Vincent Wallace Wilfred Winifred
    Yolanda Zelda""".split()
)
# the held-out words first: they are what the bundled model's own card is measured on
KEYS = dataclasses.replace(HELD_OUT, adjectives=HELD_OUT.adjectives + ADJECTIVES, nouns=HELD_OUT.nouns + NOUNS)


def key(rng: random.Random, taken: set[str]) -> str:
    """A new adjective and noun joined by a hyphen, as RULER's keys are; noted in `taken`."""
    while True:
        word = f"{rng.choice(KEYS.adjectives)}-{rng.choice(KEYS.nouns)}"
        if word not in taken:
            taken.add(word)
            return word
