;; Lists of lists of lists.
(component
  (type (list u8)) {{90000 (type (list #))}})
