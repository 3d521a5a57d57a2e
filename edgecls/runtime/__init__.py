"""What a device needs to classify: which artefact, on which machine, and how."""
