# What Authen::SASL has from 2.1800 on and Debian 12's has not: XOAUTH2, client side only. For the tests: git send-email
# logs in by itself with it. The callbacks are those of the real one: `user`, and `pass` for the token.
package Authen::SASL::Perl::XOAUTH2;

use strict;
use warnings;

our @ISA = ('Authen::SASL::Perl');

sub mechanism { return 'XOAUTH2' }

sub _order { return 1 }

# Of the properties that a caller may demand, this has one.
sub _secflags { my (undef, @wanted) = @_; return scalar grep { $_ eq 'noanonymous' } @wanted }

sub client_start {
    my ($self) = @_;
    my ($user, $token) = map { $self->_call($_) } qw(user pass);
    return "user=$user\001auth=Bearer $token\001\001";
}

# A challenge is the reason of a refusal: it is answered with nothing, and the refusal follows.
sub client_step { my ($self) = @_; $self->set_error('refused'); return '' }

1;
