"""The words of the simulated shop: its category tree, brands, and the adjectives that say how an item looks."""

from typing import Final

# leaf path -> (typical price, consumable, adults only, nouns)
LEAVES: Final[dict[str, tuple[float, bool, bool, tuple[str, ...]]]] = {
    "kitchen/knives": (48, False, False, ("Chef's Knife", "Paring Knife", "Bread Knife", "Knife Block")),
    "kitchen/pans": (55, False, False, ("Frying Pan", "Saucepan", "Wok", "Casserole")),
    "kitchen/baking": (22, False, False, ("Cake Tin", "Rolling Pin", "Mixing Bowl", "Pie Dish")),
    "kitchen/coffee": (35, False, False, ("Coffee Grinder", "Moka Pot", "Pour-Over Set", "Milk Frother")),
    "pantry/tea": (9, True, False, ("Green Tea", "Earl Grey", "Herbal Infusion", "Chai Blend")),
    "pantry/coffee-beans": (14, True, False, ("Espresso Beans", "Filter Roast", "Decaf Beans", "House Blend")),
    "pantry/sweets": (7, True, False, ("Dark Chocolate", "Caramels", "Liquorice", "Nougat Bar")),
    "pantry/wine": (17, True, True, ("Red Wine", "Riesling", "Cider", "Sparkling Wine")),
    "home/candles": (15, True, False, ("Scented Candle", "Pillar Candle", "Tealights", "Candle Set")),
    "home/lighting": (70, False, False, ("Desk Lamp", "Pendant Light", "Floor Lamp", "Lantern")),
    "home/textiles": (38, False, False, ("Throw Blanket", "Cushion Cover", "Linen Sheet Set", "Wool Rug")),
    "home/storage": (27, False, False, ("Storage Basket", "Wall Shelf", "Coat Rack", "Jewellery Box")),
    "garden/tools": (26, False, False, ("Hand Trowel", "Pruning Shears", "Garden Fork", "Watering Can")),
    "garden/seeds": (4, True, False, ("Tomato Seeds", "Wildflower Mix", "Herb Seeds", "Sunflower Seeds")),
    "garden/pots": (21, False, False, ("Terracotta Pot", "Planter", "Hanging Basket", "Plant Stand")),
    "garden/barbecue": (95, False, False, ("Charcoal Grill", "Grill Tongs", "Pizza Stone", "Smoker Box")),
    "toys/puzzles": (19, False, False, ("Jigsaw Puzzle", "Wooden Puzzle", "Brain Teaser", "Puzzle Mat")),
    "toys/building": (36, False, False, ("Building Blocks", "Train Set", "Marble Run", "Model Kit")),
    "toys/plush": (18, False, False, ("Plush Bear", "Plush Rabbit", "Hand Puppet", "Soft Doll")),
    "toys/games": (29, False, False, ("Board Game", "Card Game", "Dice Game", "Chess Set")),
    "books/novels": (13, False, False, ("Crime Novel", "Family Saga", "Short Stories", "Historical Novel")),
    "books/cookbooks": (26, False, False, ("Baking Book", "Vegetarian Cookbook", "Soup Book", "Grill Book")),
    "books/travel": (18, False, False, ("City Guide", "Hiking Guide", "Road Atlas", "Travel Memoir")),
    "books/children": (11, False, False, ("Picture Book", "Bedtime Stories", "Colouring Book", "Fairy Tales")),
    "sport/running": (62, False, False, ("Running Shoes", "Running Belt", "Headlamp", "Running Vest")),
    "sport/yoga": (31, False, False, ("Yoga Mat", "Yoga Block", "Foam Roller", "Meditation Cushion")),
    "sport/camping": (84, False, False, ("Tent", "Sleeping Bag", "Camp Stove", "Hammock")),
    "sport/cycling": (45, False, False, ("Bike Helmet", "Pannier Bag", "Bike Lock", "Cycling Gloves")),
    "fashion/scarves": (33, False, False, ("Wool Scarf", "Silk Scarf", "Snood", "Shawl")),
    "fashion/bags": (66, False, False, ("Tote Bag", "Backpack", "Shoulder Bag", "Weekender")),
    "fashion/jewellery": (40, False, False, ("Necklace", "Earrings", "Bracelet", "Signet Ring")),
    "fashion/socks": (10, True, False, ("Wool Socks", "Cotton Socks", "Hiking Socks", "Slippers")),
    "beauty/soap": (7, True, False, ("Bar Soap", "Hand Wash", "Bath Bomb", "Shower Gel")),
    "beauty/skincare": (24, True, False, ("Face Cream", "Lip Balm", "Clay Mask", "Body Oil")),
    "beauty/fragrance": (58, False, False, ("Eau de Parfum", "Room Spray", "Reed Diffuser", "Cologne")),
    "beauty/grooming": (20, False, False, ("Beard Oil", "Safety Razor", "Hair Brush", "Shaving Set")),
    "craft/yarn": (8, True, False, ("Merino Yarn", "Cotton Yarn", "Sock Yarn", "Mohair Yarn")),
    "craft/paper": (12, True, False, ("Notebook", "Greeting Cards", "Wrapping Paper", "Sketchbook")),
    "craft/paint": (23, True, False, ("Watercolours", "Acrylic Set", "Brush Set", "Gouache Set")),
    "craft/sewing": (28, False, False, ("Sewing Kit", "Fabric Bundle", "Embroidery Hoop", "Scissors")),
}

BRANDS: Final = (
    "Nordvik", "Hearth & Pine", "Calder", "Miravale", "Oakhurst", "Lumen", "Tidewater", "Brackley", "Solene", "Fjell",
    "Ironleaf", "Petra", "Wrenfield", "Kobo", "Marlowe", "Sable", "Juniper Lane", "Ostara", "Vesper", "Halden",
    "Aster", "Quill", "Copperhead", "Linnet", "Bramble", "Aurel", "Northgate", "Saffron", "Birchall", "Domo",
    "Elmfield", "Rook", "Thistle", "Valmont", "Pebble", "Harrow", "Meadowlark", "Cobalt", "Tansy", "Greyfriars",
)  # fmt: skip

# One pair of opposites for each latent dimension: the words of an item tell what its vector says.
STYLES: Final = (
    ("Minimal", "Ornate"), ("Rustic", "Modern"), ("Classic", "Playful"), ("Bold", "Delicate"),
    ("Vintage", "Futuristic"),
    ("Natural", "Metallic"), ("Handmade", "Precision"), ("Cosy", "Airy"), ("Dark", "Pastel"), ("Alpine", "Coastal"),
    ("Compact", "Generous"), ("Floral", "Geometric"), ("Matte", "Glossy"), ("Travel", "Heirloom"),
    ("Organic", "Luxury"), ("Quiet", "Festive"),
)  # fmt: skip
