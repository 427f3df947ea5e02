;;; cms.el --- Send mail through Microsoft 365, with tokens from cms  -*- lexical-binding: t; -*-

;; For Emacs 28.1 and newer, whose smtpmail supports XOAUTH2.  Load it from your init file, with the settings that
;; docs/clients/emacs.md shows.  smtpmail asks auth-source for a password; this file makes auth-source ask cms.

;;; Code:

(require 'auth-source)
(require 'cl-lib)
(require 'subr-x)

(defgroup cms nil
  "Tokens from cms."
  :group 'mail)

(defcustom cms-command '("cms-oauth")
  "The program that prints tokens, and arguments for it, for example \"--cms_sock=PATH\".
Write its full path if it is not in `exec-path'."
  :type '(repeat string))

(defcustom cms-hosts '("smtp.office365.com")
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

(cl-defun cms-auth-source-search (&key host port user &allow-other-keys)
  "Return the credential of USER at HOST and PORT, if HOST is one of `cms-hosts'.
Its secret is a function that asks for the token when it is needed; the token is never stored."
  (let ((found (cl-find-if (lambda (each) (member each cms-hosts)) (ensure-list host)))
        (name (car (ensure-list user))))
    (when (and found (stringp name))
      (list (list :host found :port port :user name :secret (lambda () (cms-token name "SMTP")))))))

(defun cms-auth-source-parse (entry)
  "Return the backend of ENTRY if that is the symbol `cms', as in `auth-sources'."
  (when (eq entry 'cms)
    (auth-source-backend :type 'cms :source "cms" :search-function #'cms-auth-source-search)))

(add-hook 'auth-source-backend-parser-functions #'cms-auth-source-parse)

(provide 'cms)
;;; cms.el ends here
