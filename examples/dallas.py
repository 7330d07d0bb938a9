"""Two hops in one answer: from dallas to texas, from texas to austin. Run: python examples/dallas.py [PICTURE]"""

import sys

import attrgraph as ag

DALLAS, CHICAGO = (f"in the state containing {city} the capital is" for city in ("dallas", "chicago"))
CITY = 5  # the city's position, counted with <bos>

model = ag.load_model("demo")  # ships with the package; it knows cities, states and capitals of its own world
graph = ag.trace(model, DALLAS)
small = graph.prune(node_threshold=0.8)
print(DALLAS, "->", *graph.nodes.query("kind == 'logit'")["token"])

# Which features caused the answer? Labels say what makes them fire.
features = small.nodes.query("kind == 'feature'").nlargest(6, "influence")
print(features[["layer", "pos", "token", "influence", "label"]].to_string())

# The first hop is features for cities in texas. With their sign reversed, the model no longer says austin.
texas = small.nodes.query("label == 'city in texas'").index.tolist()
turned = ag.intervene(model, DALLAS, ag.Intervention(texas, scale=-1.0))
print("texas reversed:", ", ".join(f"{token} {share:.2f}" for token, share in turned.top_after[:3]))

# The second hop follows the first: with chicago's features in place of dallas's, the answer is that state's capital.
kept = [ag.features_at(ag.trace(model, prompt), CITY).kept for prompt in (DALLAS, CHICAGO)]
swapped = ag.swap(model, DALLAS, CHICAGO, *kept)
print(f"chicago for dallas: {swapped.effect.top_after[0][0]}; chicago's own answer: {swapped.answer_b}")

picture = sys.argv[1] if len(sys.argv) > 1 else "dallas.dot"  # .svg, .png and .pdf need Graphviz
ag.draw_graph(small, picture, groups={"cities in texas": texas}, min_share=0.02)
print("wrote", picture)
