"""Send a message with a token from cms. Adjust the addresses, and run it with the Python that has cms installed."""

import smtplib
import ssl
from email.message import EmailMessage

import cms_oauth

message = EmailMessage()
message["From"] = "user@domain.com"
message["To"] = "reader@domain.com"
message["Subject"] = "test"
message.set_content("hello\n")

login = cms_oauth.Login("user@domain.com")
with smtplib.SMTP("smtp.office365.com", 587) as server:
    server.starttls(context=ssl.create_default_context())
    server.ehlo()
    server.auth("XOAUTH2", login.smtp())
    server.send_message(message)
