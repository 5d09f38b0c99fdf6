"""REINFORCE for controllers that choose an architecture token by token: what NAS-RL and ENAS share."""
