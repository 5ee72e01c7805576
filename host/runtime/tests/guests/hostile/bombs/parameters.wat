;; Blocks in blocks, each of which hands on a thousand values.
(component
  (core module (type (func (param {{1000 i64}}) (result {{1000 i64}}))) (func (param i64) {{1000 local.get 0}} {{500 loop (type 0)}} {{500 end}} {{1000 drop}})))
