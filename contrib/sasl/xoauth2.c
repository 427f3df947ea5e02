/* A Cyrus SASL client plug-in for XOAUTH2. The password is the access token, as cms's PostfixTable answers it.
 *
 * `make` and `sudo make install` in this folder put it where libsasl2 looks for plug-ins.
 * User and password come from the program's callbacks (Postfix), or from the prompts that it answers (mbsync).
 */
#include <stdio.h>

#include <sasl/sasl.h>
#include <sasl/saslplug.h>

#define FORMAT "user=%s\001auth=Bearer %.*s\001\001"

struct exchange {
    char *response; /* holds the token */
    size_t length;
};

static int start(void *glob, sasl_client_params_t *params, void **conn_context)
{
    (void)glob;
    *conn_context = params->utils->malloc(sizeof(struct exchange));
    if (*conn_context == NULL)
        return SASL_NOMEM;
    *(struct exchange *)*conn_context = (struct exchange){NULL, 0};
    return SASL_OK;
}

static int get_user(const sasl_utils_t *utils, const char **user)
{
    sasl_getsimple_t *ask;
    void *context;
    int result = utils->getcallback(utils->conn, SASL_CB_AUTHNAME, (sasl_callback_ft *)&ask, &context);

    if (result != SASL_OK)
        return result;
    *user = NULL;
    result = ask(context, SASL_CB_AUTHNAME, user, NULL);
    return result == SASL_OK && *user == NULL ? SASL_BADPARAM : result;
}

static int get_token(const sasl_utils_t *utils, sasl_secret_t **token)
{
    sasl_getsecret_t *ask;
    void *context;
    int result = utils->getcallback(utils->conn, SASL_CB_PASS, (sasl_callback_ft *)&ask, &context);

    if (result != SASL_OK)
        return result;
    *token = NULL;
    /* Not the arguments of SASL_CB_AUTHNAME: this one begins with the connection. */
    result = ask(utils->conn, context, SASL_CB_PASS, token);
    return result == SASL_OK && *token == NULL ? SASL_BADPARAM : result;
}

static int compose(const sasl_utils_t *utils, struct exchange *exchange, const char *user, const char *token,
                   unsigned long token_length)
{
    int length = snprintf(NULL, 0, FORMAT, user, (int)token_length, token);

    if (length < 0)
        return SASL_FAIL;
    exchange->response = utils->malloc((size_t)length + 1);
    if (exchange->response == NULL)
        return SASL_NOMEM;
    exchange->length = (size_t)length;
    snprintf(exchange->response, exchange->length + 1, FORMAT, user, (int)token_length, token);
    return SASL_OK;
}

static const sasl_interact_t *prompt_for(const sasl_interact_t *prompts, unsigned long id)
{
    while (prompts != NULL && prompts->id != SASL_CB_LIST_END) {
        if (prompts->id == id)
            return prompts;
        prompts++;
    }
    return NULL;
}

static int ask(const sasl_utils_t *utils, int for_user, int for_token, sasl_interact_t **prompt_need)
{
    sasl_interact_t *next = utils->malloc(3 * sizeof(sasl_interact_t));

    if (next == NULL)
        return SASL_NOMEM;
    *prompt_need = next;
    if (for_user)
        *next++ = (sasl_interact_t){.id = SASL_CB_AUTHNAME, .challenge = "Authentication name", .prompt = "User"};
    if (for_token)
        *next++ = (sasl_interact_t){.id = SASL_CB_PASS, .challenge = "Password", .prompt = "Access token"};
    *next = (sasl_interact_t){.id = SASL_CB_LIST_END};
    return SASL_INTERACT;
}

static int begin(sasl_client_params_t *params, struct exchange *exchange, sasl_interact_t **prompt_need,
                 sasl_out_params_t *oparams)
{
    const sasl_utils_t *utils = params->utils;
    const sasl_interact_t *user_prompt = prompt_for(*prompt_need, SASL_CB_AUTHNAME);
    const sasl_interact_t *token_prompt = prompt_for(*prompt_need, SASL_CB_PASS);
    const char *user = NULL, *token = NULL;
    unsigned long token_length = 0;
    sasl_secret_t *secret;
    int user_result = SASL_OK, token_result = SASL_OK, result;

    if ((user_prompt != NULL && user_prompt->result == NULL) || (token_prompt != NULL && token_prompt->result == NULL)) {
        utils->free(*prompt_need);
        *prompt_need = NULL;
        return SASL_BADPARAM;
    }
    if (user_prompt != NULL)
        user = user_prompt->result;
    else
        user_result = get_user(utils, &user);
    if (token_prompt != NULL) {
        token = token_prompt->result;
        token_length = token_prompt->len;
    } else {
        token_result = get_token(utils, &secret);
        if (token_result == SASL_OK) {
            token = (const char *)secret->data;
            token_length = secret->len;
        }
    }
    if (user_result != SASL_OK && user_result != SASL_INTERACT)
        return user_result;
    if (token_result != SASL_OK && token_result != SASL_INTERACT)
        return token_result;
    if (user == NULL || token == NULL) {
        utils->free(*prompt_need);
        *prompt_need = NULL;
        return ask(utils, user == NULL, token == NULL, prompt_need);
    }
    result = params->canon_user(utils->conn, user, 0, SASL_CU_AUTHID | SASL_CU_AUTHZID, oparams);
    if (result == SASL_OK)
        result = compose(utils, exchange, user, token, token_length);
    utils->free(*prompt_need);
    *prompt_need = NULL;
    return result;
}

static int step(void *conn_context, sasl_client_params_t *params, const char *challenge, unsigned challenge_length,
                sasl_interact_t **prompt_need, const char **reply, unsigned *reply_length, sasl_out_params_t *oparams)
{
    struct exchange *exchange = conn_context;
    sasl_interact_t *no_prompts = NULL;
    int result;

    (void)challenge;
    (void)challenge_length;
    *reply = "";
    *reply_length = 0;
    /* A challenge after the response tells why it was refused; an empty line makes the server end the exchange. */
    if (exchange->response != NULL) {
        oparams->doneflag = 1;
        return SASL_OK;
    }
    result = begin(params, exchange, prompt_need != NULL ? prompt_need : &no_prompts, oparams);
    if (result != SASL_OK)
        return result;
    *reply = exchange->response;
    *reply_length = (unsigned)exchange->length;
    return SASL_CONTINUE;
}

static void end(void *conn_context, const sasl_utils_t *utils)
{
    struct exchange *exchange = conn_context;

    if (exchange->response != NULL) {
        utils->erasebuffer(exchange->response, (unsigned)exchange->length);
        utils->free(exchange->response);
    }
    utils->free(exchange);
}

static sasl_client_plug_t plugins[] = {{
    .mech_name = "XOAUTH2",
    .security_flags = SASL_SEC_NOANONYMOUS | SASL_SEC_PASS_CREDENTIALS,
    .features = SASL_FEAT_WANT_CLIENT_FIRST | SASL_FEAT_ALLOWS_PROXY,
    .mech_new = start,
    .mech_step = step,
    .mech_dispose = end,
}};

int sasl_client_plug_init(const sasl_utils_t *utils, int max_version, int *version, sasl_client_plug_t **list, int *count)
{
    (void)utils;
    if (max_version < SASL_CLIENT_PLUG_VERSION)
        return SASL_BADVERS;
    *version = SASL_CLIENT_PLUG_VERSION;
    *list = plugins;
    *count = 1;
    return SASL_OK;
}
