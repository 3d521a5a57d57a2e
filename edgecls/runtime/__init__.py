"""What a device needs to classify: which artifact, on which machine, and how."""
