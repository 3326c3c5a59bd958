"""The paper's findings, tried: which runs to make, what they show, and what follows by rule."""
