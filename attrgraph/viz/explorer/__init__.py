"""The explorer: one file that makes no request.

Our own modules of JavaScript, put one after another into the page. graph.js reads what Python wrote; influence.js
computes influence, scores and what pruning keeps; state.js is what a person chose, look.js what is then shown, and
layout.js where; drawing.js and labels.js draw it with one of pens.js, canvas.js on the screen; panel.js and search.js
are what stands around the picture; save.js writes files; keys.js listens, and bindings.js says what keys do; main.js
puts them together.
"""
