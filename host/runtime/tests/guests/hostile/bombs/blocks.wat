;; Blocks in blocks, a hundred thousand deep.
(component
  (core module (func {{100000 block}} {{100000 end}})))
