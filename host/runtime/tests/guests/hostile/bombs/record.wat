;; A record of a hundred thousand fields.
(component
  (type (record {{100000 (field "f#" u8)}})))
