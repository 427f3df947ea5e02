"""What the replies of mail servers, Entra and the daemon mean: tables of verdicts, and how a reply finds its row."""
