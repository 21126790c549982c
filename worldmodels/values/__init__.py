"""Value learners: the critic, its ensembles, and what keeps it within reach of its inputs."""
