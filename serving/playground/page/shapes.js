// Simple drawings of things that shops sell, picked by words in an item's title or category.
// One drawing is a list of parts on a canvas of 160 x 120: tone (m main, d dark, l light, a accent, g green), then
// "r x y width height radius", "c x y radius", "o x y radius width" (a ring), "p path" or "s width path" (a stroke).

const SHAPES = [
  ["knife|knives|blade|cutlery", "m p M22 54H98V76H60Q32 76 22 54z", "l s 3 M32 58H90", "d r 96 53 44 15 6", "l c 108 61 2.2", "l c 124 61 2.2"],
  ["puzzle|jigsaw|teaser", "m p M52 42H70C62 26 98 26 90 42H108V60C124 52 124 88 108 80V98H52V80C68 88 68 52 52 60z", "d c 80 69 6"],
  ["\\bpans?\\b|wok|saucepan|casserole|skillet", "d r 100 57 40 10 5", "d c 72 62 33", "m c 72 62 26", "l s 3.5 M54 56q5-12 18-13"],
  ["bowl|tin\\b|pie dish|rolling|baking", "m p M44 56H116Q114 96 80 96Q46 96 44 56z", "d r 40 49 80 10 5", "l s 3.5 M57 68q2 13 11 18"],
  ["mug|moka|coffee|espresso|frother|cup", "d s 3 M66 40q-5-5 0-10t0-10", "d s 3 M82 40q-5-5 0-10t0-10", "m s 6 M98 60h6q9 0 9 10t-9 10h-6", "m r 50 48 50 46 9", "l r 57 56 5 22 2.5"],
  ["\\btea\\b|chai|infusion|earl grey|herbal", "m r 55 44 50 54 5", "d r 59 32 42 15 4", "l r 61 58 38 28 4", "g p M80 83q-15-10 0-22q15 12 0 22z"],
  ["beans|roast|decaf|\\bblend|flour|pasta|\\brice\\b", "m p M52 38L57 98H103L108 38z", "d r 50 30 60 11 3", "l c 80 68 14", "d p M80 58q10 10 0 20q-10-10 0-20z"],
  ["caramel|liquorice|nougat|sweet|candy|bonbon", "d p M58 64L34 48Q30 64 34 80zM102 64L126 48Q130 64 126 80z", "m r 54 40 52 48 22", "l s 5 M68 44q10 18 0 40M82 42q10 20 0 44", "a s 5 M95 46q8 18 0 36"],
  ["chocolate|biscuit|cookie", "d r 52 26 56 72 5", "m r 57 31 21 16 2", "m r 82 31 21 16 2", "m r 57 51 21 16 2", "m r 82 51 21 16 2", "a p M48 66l8 5 8-5 8 5 8-5 8 5 8-5 8 5 8-5V102H48z"],
  ["wine|riesling|cider|champagne|whisky|\\bgin\\b|bottle", "d p M73 24h14v24q14 8 14 24v28H59V72q0-16 14-24z", "a r 72 20 16 12 2", "l r 59 70 42 19 0", "m r 66 75 28 3 1.5", "m r 66 81 18 3 1.5"],
  ["lantern", "d s 4 M66 36q0-18 14-18t14 18", "d r 58 36 44 9 4", "m r 60 47 40 44 3", "l r 66 53 28 38 2", "a p M80 84q-11-9 0-24q11 15 0 24z", "d r 56 91 48 9 4"],
  ["candle|tealight|t-light|wax", "d r 48 93 64 7 3.5", "m r 62 54 36 40 5", "l r 62 54 36 9 4.5", "d s 2.5 M80 55v-9", "a p M80 47q-12-10 0-26q12 16 0 26z"],
  ["pendant|ceiling", "d s 3 M80 0V34", "m p M80 30Q114 34 118 74H42Q46 34 80 30z", "l c 80 76 10", "d r 72 26 16 10 3", "l s 3.5 M56 64q3-18 16-24"],
  ["floor lamp", "d r 77.5 44 5 56 2", "d r 58 97 44 6 3", "m p M66 16h28l12 32H54z", "l p M71 21h7l-4 22H63z"],
  ["lamp|light|bulb", "d r 77 56 6 36 2", "d r 58 90 44 8 4", "m p M63 24h34l15 36H48z", "l p M69 30h9l-4 24H60z"],
  ["cushion|pillow|blanket|rug|linen|sheet|towel|textile", "m p M42 36Q80 44 118 36Q110 66 118 96Q80 88 42 96Q50 66 42 36z", "l s 4 M61 41q5 25 0 50", "a s 4 M80 42v48", "l s 4 M99 41q-5 25 0 50"],
  ["basket|storage|shelf|rack|crate|hamper", "d s 5 M60 50q20-38 40 0", "m p M48 56H112L104 98H56z", "d r 43 48 74 11 5", "l s 3 M57 71H103M59 84H101"],
  ["watering|trowel|shears|\\bfork|spade|rake|\\btool", "d r 74 18 12 36 6", "l r 77 52 6 14 1", "m p M62 64h36q1 24-18 38q-19-14-18-38z", "l s 3 M80 72v16"],
  ["seed|wildflower|bulbs", "m r 54 26 52 74 4", "l p M54 30q0-4 4-4h44q4 0 4 4v12H54z", "a c 80 58 8", "a c 91 66 8", "a c 87 79 8", "a c 73 79 8", "a c 69 66 8", "d c 80 69 6.5"],
  ["\\bpots?\\b|planter|plant|flower|hanging", "g p M80 60q-24-6-26-30q24 2 26 30z", "g p M80 60q24-6 26-30q-24 2-26 30z", "g p M80 60q-11-19 0-42q11 23 0 42z", "m p M57 64H103L97 100H63z", "d r 52 57 56 12 4"],
  ["grill|barbecue|smoker|tongs|stove", "d s 4.5 M66 78L54 102M94 78L106 102", "d p M44 52H116Q114 84 80 84Q46 84 44 52z", "m p M48 47Q50 25 80 25Q110 25 112 47z", "l r 73 17 14 8 4"],
  ["building|blocks\\b|train|marble|model kit|brick|\\btoy", "m r 43 65 35 34 4", "a r 82 65 35 34 4", "d r 62 28 35 34 4", "l c 60.5 82 9", "l p M99.5 73l10 18h-20z", "l r 72 37 15 15 2"],
  ["plush|bear|rabbit|puppet|doll|teddy", "m c 57 40 13", "m c 103 40 13", "a c 57 40 6", "a c 103 40 6", "m c 80 62 32", "l c 80 73 14", "d p M74 66h12l-6 7z", "d c 67 56 3.6", "d c 93 56 3.6", "d s 2.5 M80 73v4M74 79q6 5 12 0"],
  ["game|dice|chess|card", "m r 44 42 54 54 10", "l c 58 56 5", "l c 84 56 5", "l c 71 69 5", "l c 58 82 5", "l c 84 82 5", "d r 92 26 34 34 7", "l c 101 35 3.6", "l c 117 51 3.6"],
  ["shoe|sneaker|boot|slipper|running", "m p M38 80V54q11 8 20-3l7-9q15 22 37 26q18 3 21 13v5z", "d r 36 82 88 10 5", "l s 3.2 M66 52l8-5M74 60l7-7M84 66l6-8"],
  ["yoga|foam roller|\\bmat\\b|meditation", "m r 42 54 78 34 17", "d c 59 71 17", "m c 59 71 11.5", "d c 59 71 6", "l r 92 54 7 34 0"],
  ["tent|sleeping bag|camp|hammock|hiking", "d s 3 M80 34V18", "a p M81 18l15 5-15 5z", "m p M80 30L124 98H36z", "d p M80 50L100 98H60z", "l s 3 M80 50V98"],
  ["bike|bicycle|cycling|pannier", "d o 52 78 19 5.5", "d o 110 78 19 5.5", "m s 5 M52 78L70 50H98L110 78M70 50L82 78H52M82 78L98 50M64 43h13M98 50l-4-12h11", "a c 82 78 5"],
  ["scarf|snood|shawl", "m p M48 34q32 18 64 0v18q-32 18-64 0z", "m p M82 52h24v46H82z", "d s 3 M85 98v7M94 98v7M103 98v7", "l r 82 66 24 6 0", "a r 82 78 24 6 0"],
  ["\\bbags?\\b|backpack|tote|weekender|handbag|rucksack", "d s 5 M64 58V44q0-18 16-18t16 18V58", "m p M47 50H113L108 100H52z", "l r 68 68 24 15 3", "d r 77 72 6 7 3"],
  ["necklace|earring|bracelet|\\brings?\\b|jewel", "m o 80 76 24 7", "a p M64 40L71 28H89L96 40L80 58z", "l p M71 28H89L84 40H76z"],
  ["sock", "m p M58 26h28v40q0 7 7 11l15 9q7 5 3 12q-2 4-9 4H82q-7 0-12-5l-7-7q-5-5-5-13z", "d r 56 22 32 12 4", "l r 58 42 28 6 0", "a r 58 53 28 6 0"],
  ["hand wash|shower|shampoo|gel\\b", "d s 6 M80 40V26H98", "d r 70 36 20 12 3", "m r 54 48 52 54 10", "l r 64 62 32 26 4", "a c 80 75 6.5"],
  ["soap|bath", "m p M40 62L112 50Q122 49 123 58L125 82Q125 90 116 91L46 99Q37 99 37 91z", "l s 4 M50 76L110 68M51 86L96 80", "a c 100 34 8", "l c 116 24 5", "a c 84 26 4"],
  ["cream|balm|clay|mask|lotion|skin|jar|honey|jam", "m r 52 56 56 44 9", "d r 48 38 64 20 6", "l r 62 70 36 16 3", "m r 69 76 22 4 2"],
  ["parfum|perfume|cologne|spray|diffuser|fragrance|\\boil\\b", "m r 52 54 56 46 8", "l r 72 42 16 13 2", "d r 66 20 28 24 5", "l r 60 63 5.5 28 2.7", "l r 74 72 26 14 2"],
  ["razor|shav|hair|beard|groom|comb", "d r 73 62 14 42 7", "m r 58 16 44 52 20", "l c 72 32 3.4", "l c 88 32 3.4", "l c 72 44 3.4", "l c 88 44 3.4", "l c 80 38 3.4", "l c 80 51 3.4"],
  ["yarn|wool|knit|crochet", "m s 4.5 M100 90q16 12 30 4", "m c 78 62 34", "l s 3 M50 48q28 10 54-10M45 62q33 14 67-3M50 80q29 6 55-13", "d s 3 M62 34q-8 30 14 60"],
  ["notebook|paper|sketchbook|greeting|journal|pencil|\\bpens?\\b", "m r 52 24 58 76 5", "d r 46 34 13 5 2.5", "d r 46 50 13 5 2.5", "d r 46 66 13 5 2.5", "d r 46 82 13 5 2.5", "l r 68 42 32 5 2.5", "l r 68 54 32 5 2.5", "l r 68 66 20 5 2.5"],
  ["paint|watercolour|acrylic|gouache|brush|palette", "m p M80 28c34 0 50 20 46 38c-3 13-20 8-26 11s-1 14-7 19c-9 7-57 0-57-34c0-20 20-34 44-34z", "a c 60 54 7", "l c 80 44 7", "d c 102 52 7", "g c 58 74 7"],
  ["sewing|fabric|embroidery|thread|button", "m r 62 40 36 46 2", "l s 2.5 M62 52L98 46M62 63L98 57M62 74L98 68M62 84L98 79", "d r 55 30 50 12 5", "d r 55 84 50 12 5", "a s 3 M98 70q22 4 18 28"],
  ["scissors", "d o 64 84 11 6", "d o 96 84 11 6", "m s 8 M70 74L98 26", "l s 8 M90 74L62 26"],
  ["book|novel|stories|guide|atlas|memoir|tales|cookbook|saga", "d r 50 24 62 76 5", "m r 56 24 56 68 5", "l r 57 91 54 5 1", "l r 67 38 34 7 3.5", "l r 67 50 22 6 3", "a c 84 74 9"],
  ["heart|love", "m p M80 100C36 70 40 30 62 30q12 0 18 14q6-14 18-14c22 0 26 40-18 70z", "l s 4 M56 52q0-11 9-12"],
  ["clock|watch|alarm", "m c 80 62 36", "l c 80 62 28", "d s 4.5 M80 44V62L92 70", "a c 80 62 3.5"],
  ["gift|present|box|christmas", "m r 48 54 64 46 4", "d r 43 40 74 18 4", "a r 74 40 12 60 0", "a s 5 M80 40q-22-2-20-14t20 14q22-2 20-14t-20 14"],
  ["shirt|dress|jacket|\\bcoat\\b|sweater|jumper|apron|\\bvest", "m p M62 26q18 12 36 0l26 16-11 20-13-6v44H60V56l-13 6-11-20z", "l s 3.5 M66 30q14 10 28 0", "a r 88 58 9 9 2"],
  ["phone|tablet|mobile", "d r 58 18 44 84 8", "m r 62 24 36 68 4", "l c 80 97 2.800", "l s 3 M68 80L82 32"],
  ["headphone|earphone|audio|speaker|music", "d s 6 M46 72V64q0-34 34-34t34 34v8", "m r 38 64 20 34 9", "m r 102 64 20 34 9", "l r 43 72 5 18 2.5"],
  ["film|movie|drama|comedy|thriller|action|cinema|dvd", "d r 38 46 84 54 5", "m p M36 28l84-10 2 16-84 10z", "l p M50 26l12-1 6 15-12 1zM74 23l12-1 6 15-12 1zM98 21l12-1 6 14-12 1z", "a p M70 58v28l26-14z"],
  ["umbrella|parasol", "d s 4.5 M80 30V90q0 10 9 10t9-9", "m p M36 64Q40 26 80 26T124 64Q114 54 102 64Q92 54 80 64Q68 54 58 64Q46 54 36 64z", "l s 3 M50 52q6-12 18-16"],
  ["ornament|decoration|bunting|garland|flag|sign", "d s 3.5 M30 34Q80 62 130 34", "m p M40 39l20 8-14 24z", "a p M66 50l24 1-13 26z", "l p M98 48l20-9-5 28z"],
];

const COMPILED = SHAPES.map(([pattern, ...parts]) => [new RegExp(pattern, "i"), parts]);

// The parts of the drawing that fits a title, else a category; null where nothing does.
export function shapeOf(title, category) {
  for (const text of [title, category]) {
    if (!text) continue;
    let best = null;
    for (const [pattern, parts] of COMPILED) {
      const found = pattern.exec(text);
      // The last word of a title says what the thing is: "Festive Chocolate Cake Tin" is a tin.
      if (found && (!best || found.index > best[0])) best = [found.index, parts];
    }
    if (best) return best[1];
  }
  return null;
}
