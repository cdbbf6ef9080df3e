"""STAR's four ops. Each folder holds ``naive`` (float64, from the equation), ``packed`` (torch) and ``pyg`` (torch-scatter)."""
