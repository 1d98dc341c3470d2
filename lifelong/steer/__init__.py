"""Steering a run: plan, guard, roll back, fork, compare, retire, and watch a folder."""
