"""What people are told: the nightly digest and failures, by e-mail and Slack."""
