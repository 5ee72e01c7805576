;; Has thousands of modules inside.
(component {{5000 (core module)}})
