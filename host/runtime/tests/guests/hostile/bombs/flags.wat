;; An enumeration of a hundred thousand words.
(component
  (type (enum {{100000 "w#"}})))
