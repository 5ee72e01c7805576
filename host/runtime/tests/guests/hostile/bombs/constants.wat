;; Vectors, far more than there are registers.
(component
  (core module (func {{20000 v128.const i64x2 # 7}} {{19999 i64x2.add}} drop)))
