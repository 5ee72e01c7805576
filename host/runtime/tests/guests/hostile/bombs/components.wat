;; Has thousands of components inside.
(component {{5000 (component)}})
