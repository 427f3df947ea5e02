;;; cms.el --- Send and read mail of Microsoft 365, with tokens from cms  -*- lexical-binding: t; -*-

;; Version: 0.1.0
;; Package-Requires: ((emacs "28.1"))
;; Keywords: mail, comm

;;; Commentary:

;; For Emacs 28.1 and newer, whose smtpmail supports XOAUTH2.  Install this file with `M-x package-install-file', or
;; load it from your init file, with the settings that docs/clients/emacs.md shows.  smtpmail, with which Gnus, mu4e and
;; notmuch send, and nnimap, with which Gnus reads, ask auth-source for a password; this file makes auth-source ask cms.

;;; Code:

(require 'auth-source)
(require 'cl-lib)
(require 'subr-x)

(defgroup cms nil
  "Tokens from cms."
  :group 'mail)

(defcustom cms-command '("cms-oauth")
  "The program that prints tokens, and arguments for it.
An argument is for example \"--cms_sock=PATH\".  Write the program's full path
if it is not in the variable `exec-path'."
  :type '(repeat string))

(defcustom cms-hosts '("smtp.office365.com" "outlook.office365.com")
  "The servers that Emacs may send a token to."
  :type '(repeat string))

(defun cms-token (user protocol)
  "Return a fresh token of USER for PROTOCOL, for example \"SMTP\".
If there is none, signal an error with the message of cms."
  (let ((errors (make-temp-file "cms"))
        (arguments `(,@(cdr cms-command) ,(concat "--user=" user) ,(concat "--proto=" protocol)
                     "--output=token" "--no_newline")))
    (unwind-protect
        (with-temp-buffer
          (unless (eq 0 (apply #'call-process (car cms-command) nil (list t errors) nil arguments))
            (erase-buffer)
            (insert-file-contents errors)
            (user-error "%s" (string-trim (buffer-string))))
          (buffer-string))
      (delete-file errors))))

(defconst cms--ports
  '(("IMAP" "imap" "imaps" "143" "993") ("POP" "pop3" "pop3s" "pop" "110" "995"))
  "The protocols that a port tells.  Any other port is one of SMTP's.")

(defun cms--protocol (ports)
  "Return the protocol that one of PORTS is for, which are names or numbers."
  (let ((names (mapcar (lambda (each) (format "%s" each)) (ensure-list ports))))
    (or (car (cl-find-if (lambda (row) (cl-intersection names (cdr row) :test #'equal)) cms--ports)) "SMTP")))

(cl-defun cms-auth-source-search (&key host port user &allow-other-keys)
  "Return the credential of USER at HOST and PORT, if HOST is one of `cms-hosts'.
Its secret is a function that asks for the token when it is needed; the token is
never stored."
  (let ((found (cl-find-if (lambda (each) (member each cms-hosts)) (ensure-list host)))
        (name (car (ensure-list user))))
    (when (and found (stringp name))
      (list (list :host found :port port :user name :secret (lambda () (cms-token name (cms--protocol port))))))))

(defun cms-auth-source-parse (entry)
  "Return the backend of ENTRY if that is the symbol `cms', as in `auth-sources'."
  (when (eq entry 'cms)
    (auth-source-backend :type 'cms :source "cms" :search-function #'cms-auth-source-search)))

(add-hook 'auth-source-backend-parser-functions #'cms-auth-source-parse)

;;;###autoload
(defun cms-enable ()
  "Let Emacs ask cms for the tokens of `cms-hosts'."
  (interactive)
  (add-to-list 'auth-sources 'cms))

(defvar nnimap-authenticator)
(defvar nnimap-streaming)
(declare-function nnheader-report "nnheader")
(declare-function nnimap-capability "nnimap")
(declare-function nnimap-get-response "nnimap")
(declare-function nnimap-send-command "nnimap")
(declare-function nnimap-wait-for-line "nnimap")

(defun cms--nnimap-login (login user token)
  "Log in as USER with TOKEN if that is by XOAUTH2, else call LOGIN.
Gnus of Emacs 28 breaks a long token into lines, and it waits for ever if the
server says why it refuses one."
  (if (not (and (eq nnimap-authenticator 'xoauth2) (nnimap-capability "AUTH=XOAUTH2")))
      (funcall login user token)
    (erase-buffer)
    (let* ((nnimap-streaming t)
           (credential (encode-coding-string (format "user=%s\1auth=Bearer %s\1\1" user token) 'utf-8))
           (sequence (nnimap-send-command "AUTHENTICATE XOAUTH2 %s" (base64-encode-string credential t))))
      (when (nnimap-wait-for-line (format "^\\(\\+\\|%d \\).*\n" sequence) "\\(\\+\\)")
        (erase-buffer)
        (process-send-string (get-buffer-process (current-buffer)) "\r\n"))
      (let ((response (nnimap-get-response sequence)))
        (if (equal (caar response) "OK")
            (cons t response)
          (nnheader-report 'nnimap "%s" (mapconcat (lambda (each) (format "%s" each)) (car response) " "))
          nil)))))

(with-eval-after-load 'nnimap
  (advice-add 'nnimap-login :around #'cms--nnimap-login))

(provide 'cms)
;;; cms.el ends here
