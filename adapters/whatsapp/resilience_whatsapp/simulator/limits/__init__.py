"""The limits of the API: their numbers, the meters that count, the limiter that refuses, the headers that warn."""
