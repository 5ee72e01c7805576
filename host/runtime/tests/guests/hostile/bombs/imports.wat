;; Wants thousands of things that no host has.
(component {{5000 (import "a-#" (func))}})
