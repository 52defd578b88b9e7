"""What is to be done: plan, trials, rates, cost. No model is loaded here."""
