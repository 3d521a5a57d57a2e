"""The last layer of a network learns again, from what the layers before it give: without torch, on the device."""
