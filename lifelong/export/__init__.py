"""What leaves a run: samples for other trainers, a merged model, the cards that say where they are from."""
