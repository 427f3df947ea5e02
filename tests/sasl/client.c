/* A client of libsasl2 for the test of contrib/sasl: one exchange with XOAUTH2, printed in hexadecimal.
 *
 * client PLUGINS callbacks|prompts|silent USER TOKEN
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sasl/sasl.h>

static const char *user, *token;

static int give_user(void *context, int id, const char **result, unsigned *length)
{
    (void)context;
    (void)id;
    *result = user;
    if (length != NULL)
        *length = (unsigned)strlen(user);
    return SASL_OK;
}

static int give_token(sasl_conn_t *connection, void *context, int id, sasl_secret_t **secret)
{
    static sasl_secret_t *kept;

    (void)connection;
    (void)context;
    (void)id;
    free(kept);
    kept = malloc(sizeof(*kept) + strlen(token));
    kept->len = strlen(token);
    memcpy(kept->data, token, kept->len + 1);
    *secret = kept;
    return SASL_OK;
}

static int answer(sasl_interact_t *prompts, int silent)
{
    int asked = 0;

    for (; prompts->id != SASL_CB_LIST_END; prompts++, asked++) {
        const char *said = prompts->id == SASL_CB_PASS ? token : user;

        prompts->result = silent ? NULL : said;
        prompts->len = (unsigned)strlen(said);
    }
    return asked;
}

int main(int count, char **arguments)
{
    sasl_callback_t given[] = {{SASL_CB_AUTHNAME, (int (*)(void))(void (*)(void))give_user, NULL},
                               {SASL_CB_PASS, (int (*)(void))(void (*)(void))give_token, NULL},
                               {SASL_CB_LIST_END, NULL, NULL}};
    sasl_callback_t asked[] = {
        {SASL_CB_AUTHNAME, NULL, NULL}, {SASL_CB_PASS, NULL, NULL}, {SASL_CB_LIST_END, NULL, NULL}};
    sasl_conn_t *connection;
    sasl_interact_t *prompts = NULL;
    const char *out = NULL, *mechanism;
    unsigned length = 0;
    int result, prompted = 0;

    if (count != 5)
        return 64;
    user = arguments[3];
    token = arguments[4];
    sasl_set_path(SASL_PATH_TYPE_PLUGIN, arguments[1]);
    if (sasl_client_init(strcmp(arguments[2], "callbacks") == 0 ? given : asked) != SASL_OK)
        return 1;
    if (sasl_client_new("smtp", "localhost", NULL, NULL, NULL, 0, &connection) != SASL_OK)
        return 2;
    while ((result = sasl_client_start(connection, "XOAUTH2", &prompts, &out, &length, &mechanism)) == SASL_INTERACT)
        prompted += answer(prompts, strcmp(arguments[2], "silent") == 0);
    printf("%d %d ", result, prompted);
    for (unsigned each = 0; each < length; each++)
        printf("%02x", (unsigned char)out[each]);
    if (result == SASL_CONTINUE)
        /* What a server sends to say why it refuses: an empty answer, and the end. */
        printf(" %d", sasl_client_step(connection, "eyJzdGF0dXMiOiI0MDAifQ==", 24, &prompts, &out, &length));
    printf("\n");
    sasl_dispose(&connection);
    sasl_client_done();
    return 0;
}
