// The real oidc-provider over TLS on a free port: `node server.js LIBRARY PEM CLIENTS RESOURCE`, with the clients as JSON.
// It prints its issuer when it can be asked, and ends with its standard input.
import fs from "node:fs";
import https from "node:https";
import { pathToFileURL } from "node:url";

const [library, pem, clients, KNOWN] = process.argv.slice(2);
const { default: Provider, errors } = await import(pathToFileURL(library));
const key = fs.readFileSync(pem);
const server = https.createServer({ key, cert: key });

server.listen(0, "localhost", () => {
  const issuer = `https://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: JSON.parse(clients),
    scopes: ["openid", "offline_access", "email", "mail"],
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    cookies: { keys: ["of a test"] },
    features: {
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => {
          if (resource !== KNOWN) throw new errors.InvalidTarget();
          return { scope: "mail" };
        },
      },
      revocation: { enabled: true },
    },
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: id, email_verified: true }),
    }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
process.stdin.resume().on("end", () => process.exit());
