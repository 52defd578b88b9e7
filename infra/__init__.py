"""Where it runs: the services of one machine (`services`), and files for containers and Kubernetes."""
