"""The libraries of those who have to take the gateway's proofs judge them: signatures, assertions, requests for tokens.

What the gateway sends reaches local doubles. There its signature is made anew, its assertion verified, or its request
compared with the one that the vendor's own library sends to such a double for the same identity.
"""

import base64
import datetime
import email.utils
import hashlib
import json
import re
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager

import azure.identity
import boto3
import botocore.config
import google.auth.transport.requests
import pytest
from azure.core.pipeline.transport import RequestsTransport
from botocore import UNSIGNED, auth, awsrequest, credentials, utils
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth import jwt
from google.oauth2 import service_account

import double
import processes

RSA = processes.ROOT / "tests/fixtures/credentials/rsa.pem"
KEY = serialization.load_pem_private_key(RSA.read_bytes(), None).public_key()
REGION = "us-east-1"
LATER = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

ROLE = "arn:aws:iam::123456789012:role/first"
CHAINED = "arn:aws:iam::123456789012:role/second"
SESSION = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQD+/=="
# Access key, secret key, session token: of the conf, of a role, of a metadata service.
HELD = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", SESSION)
OF_ROLE = ("ASIAROLE", "role/secret+key", "role-session==")
OF_METADATA = ("ASIAMETADATA", "metadata/secret", "metadata-session")

TENANT = "00000000-0000-0000-0000-000000000001"
SCOPE = "https://cognitiveservices.azure.com/.default"
AUTHORITY = "https://login.microsoftonline.com"
EMAIL = "robot@p.iam.gserviceaccount.com"


def answer(asked):
    """As the services of tokens answer, and every provider."""
    path = asked.path.partition("?")[0]
    if b"Action=AssumeRole" in asked.body:
        result = "AssumeRoleWithWebIdentity" if b"WithWebIdentity" in asked.body else "AssumeRole"
        access, secret, session = OF_ROLE
        return 200, (
            f'<{result}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{result}Result><Credentials>'
            f"<AccessKeyId>{access}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
            f"<SessionToken>{session}</SessionToken><Expiration>{LATER}</Expiration></Credentials>"
            f"</{result}Result></{result}Response>"
        )
    if path.endswith("/token") and asked.method == "PUT":
        return 200, "imds-session"
    if path.endswith("/security-credentials/"):
        return 200, "my-role"
    if path.endswith(("/my-role", "/creds")):
        access, secret, session = OF_METADATA
        keys = dict(Code="Success", AccessKeyId=access, SecretAccessKey=secret, Token=session, Expiration=LATER)
        return 200, json.dumps(keys)
    if path.endswith("/openid-configuration"):
        issuer = f"{AUTHORITY}/{TENANT}"
        found = dict(issuer=f"{issuer}/v2.0", token_endpoint=f"{issuer}/oauth2/v2.0/token",
                     authorization_endpoint=f"{issuer}/oauth2/v2.0/authorize")
        return 200, json.dumps(found)
    if path.endswith("/token"):
        token = dict(access_token="t-1", expires_in=3599, token_type="Bearer")
        if asked.method == "GET":
            token |= dict(expires_on=str(int(time.time()) + 3599), resource="r", not_before="0")
        return 200, json.dumps(token)
    return 400, '{"message":"only the request counts"}'


@pytest.fixture(scope="module")
def vendor():
    with double.answering(answer) as server:
        yield server


@pytest.fixture(autouse=True)
def forget(vendor):
    """Nothing of an earlier test is judged."""
    vendor.asked.clear()


@pytest.fixture(scope="module")
def gateways(vendor, tmp_path_factory):
    """Base URLs of three gateways: a provider has one credential in each."""
    folder = tmp_path_factory.mktemp("secrets")
    account, token = folder / "account.json", folder / "token"
    token.write_text("eyJ.workload.token\n")
    key = RSA.read_text()
    account.write_text(json.dumps(
        dict(type="service_account", client_email=EMAIL, private_key_id="kid-1", private_key=key)))
    with ExitStack() as stack:
        yield [
            stack.enter_context(started(tmp_path_factory.mktemp("gateway"), vendor, kinds))
            for kinds in credentials_of(vendor, str(account), str(token))
        ]


def credentials_of(vendor, account, token):
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key", "aws_session_token"), HELD))
    sts = dict(aws_sts_endpoint=vendor.url)
    entra = dict(azure_entra_tenant_id=TENANT, azure_token_endpoint=vendor.url)
    managed = dict(azure_auth_mode="managed", azure_token_endpoint=vendor.url)
    yield {
        "bedrock": keys,
        "bedrock-invoke": keys | sts | dict(aws_role_arn=ROLE, aws_external_id="x/1", aws_chained_role_arn=CHAINED),
        "vertex-ai": dict(vertex_service_account_json=f"file:{account}", vertex_token_endpoint=f"{vendor.url}/token"),
        "azure-openai": entra | dict(azure_auth_mode="entra", azure_entra_client_id="app-1",
                                     azure_entra_client_secret="s&=\u00e9"),
        "azure-ai": entra | dict(azure_auth_mode="workload", azure_workload_client_id="app-2",
                                 azure_workload_token_file=token),
        "oracle": dict(oracle_tenancy="ocid1.tenancy.oc1..aaaa", oracle_user="ocid1.user.oc1..bbbb",
                       oracle_fingerprint="20:3b:97:13:55:1c", oracle_private_key=f"file:{RSA}"),
    }
    yield {
        "bedrock": sts | dict(aws_auth_mode="web-identity", aws_role_arn=ROLE, aws_web_identity_token_file=token),
        "bedrock-invoke": dict(aws_auth_mode="instance", aws_metadata_endpoint=vendor.url),
        "azure-openai": managed,
        "azure-ai": managed | dict(azure_managed_client_id="id-1"),
    }
    yield {
        "bedrock": dict(aws_auth_mode="container", aws_container_credentials_uri=f"{vendor.url}/v1/creds?a=b",
                        aws_container_authorization_token_file=token),
    }


@contextmanager
def started(folder, vendor, kinds):
    [port] = processes.free_ports(1)
    providers = {name: dict(base_url=vendor.url, credentials=parts) for name, parts in kinds.items()}
    # Git knows no file that its owner alone can read.
    conf = dict(gateway=dict(listen=f"127.0.0.1:{port}", admin=dict(listen="none"), providers=providers,
                             secret_file_mode="0644"))
    # JSON is YAML.
    with processes.gateway(folder, json.dumps(conf), [port]):
        yield f"http://127.0.0.1:{port}"


def send(url, provider, path="/v1/completions", method="POST", body=None, **headers):
    """Sends a request; what comes back is not looked at."""
    headers |= {"x-portkey-provider": provider, "content-type": "application/json"}
    request = urllib.request.Request(url + path, data=body, method=method, headers=headers)
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError as error:
        assert error.code == 400, error.read()
        error.close()


def complete(url, provider, model="m", **more):
    send(url, provider, body=json.dumps(dict(model=model, prompt="h\u00e9 \u6f22", **more)).encode())


def botocore_signs(asked, keys, service):
    """The `Authorization` that botocore makes of a request that has arrived."""
    sent = asked.headers["authorization"]
    names = re.search("SignedHeaders=([^,]+)", sent)[1].split(";")
    assert {"host", "x-amz-date"} <= set(names)
    url = f"http://{asked.headers['host']}{asked.path}"
    headers = {name: asked.headers[name] for name in names}
    request = awsrequest.AWSRequest(method=asked.method, url=url, data=asked.body, headers=headers)
    moment = asked.headers["x-amz-date"]
    request.context["timestamp"] = moment
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.strptime(moment + "+0000", "%Y%m%dT%H%M%SZ%z")
    assert abs(age.total_seconds()) < 60
    if "x-amz-content-sha256" in asked.headers:
        assert asked.headers["x-amz-content-sha256"] == hashlib.sha256(asked.body).hexdigest()
    assert asked.headers.get("x-amz-security-token") == keys[2]
    signer = auth.SigV4Auth(credentials.Credentials(*keys), service, REGION)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    scope = f"{keys[0]}/{moment[:8]}/{REGION}/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(names)}, Signature={signature}"


def aws(service, vendor, **more):
    return boto3.client(
        service, region_name=REGION, endpoint_url=vendor.url, aws_access_key_id=HELD[0],
        aws_secret_access_key=HELD[1],
        config=botocore.config.Config(retries={"max_attempts": 0}, **more),
    )


MODELS = [
    "anthropic.claude-3-5-haiku-20241022-v1:0",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-haiku-20241022-v1:0",
    "amazon.nova-lite-v1:0",
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_botocore_signs_a_completion_the_same(gateways, vendor, model, stream):
    complete(gateways[0], "bedrock", model, stream=stream)
    asked = vendor.last()
    assert asked.headers["authorization"] == botocore_signs(asked, HELD, "bedrock")
    client = aws("bedrock-runtime", vendor)
    call = client.converse_stream if stream else client.converse
    with pytest.raises(client.exceptions.ClientError):
        call(modelId=model, messages=[{"role": "user", "content": [{"text": "hi"}]}])
    assert vendor.last() is not asked and vendor.last().path == asked.path


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", "/foundation-models", None),
        ("GET", "/foundation-models?byProvider=a%20b&z&a=%2F&a=1", None),
        ("POST", "/model/a%3Ab%2Fc%20d~_.-/invoke?x=%C3%A9", b'{"a":  1}'),
        ("POST", "/model/a:b/invoke", b"x" * 3000),
        ("DELETE", "/guardrails/1", None),
    ],
)
def test_botocore_signs_a_passed_request_the_same(gateways, vendor, method, path, body):
    send(gateways[0], "bedrock", path, method, body, **{"x-amz-meta": "kept", "x-amz-date": "20200101T000000Z"})
    asked = vendor.last()
    assert (asked.method, asked.path, asked.body) == (method, path, body or b"")
    assert "x-amz-meta" in asked.headers["authorization"]
    assert asked.headers["authorization"] == botocore_signs(asked, HELD, "bedrock")


def test_boto3_that_passes_through_is_signed_anew(gateways, vendor):
    client = boto3.client(
        "bedrock-runtime", region_name=REGION, endpoint_url=gateways[0], aws_access_key_id="AKIDCLIENT",
        aws_secret_access_key="none", aws_session_token="client", config=botocore.config.Config(retries={"max_attempts": 0}))
    add = lambda request, **_: request.headers.add_header("x-portkey-provider", "bedrock")
    client.meta.events.register("before-sign.bedrock-runtime.*", add)
    with pytest.raises(client.exceptions.ClientError):
        client.invoke_model(modelId=MODELS[1], body=b'{"prompt":"hi"}')
    asked = vendor.last()
    assert asked.body == b'{"prompt":"hi"}' and "AKIDCLIENT" not in str(asked.headers)
    assert asked.headers["authorization"] == botocore_signs(asked, HELD, "bedrock")


def form(asked) -> dict:
    assert asked.headers["content-type"].startswith("application/x-www-form-urlencoded")
    return dict(urllib.parse.parse_qsl(asked.body.decode(), strict_parsing=True))


def test_boto3_assumes_a_chain_of_roles_the_same(gateways, vendor):
    complete(gateways[0], "bedrock-invoke", "meta.llama3-8b-instruct-v1:0")
    first, second, call = vendor.asked
    for asked, keys in (first, HELD), (second, OF_ROLE):
        assert asked.headers["authorization"] == botocore_signs(asked, keys, "sts")
    assert call.headers["authorization"] == botocore_signs(call, OF_ROLE, "bedrock")
    client = aws("sts", vendor)
    client.assume_role(RoleArn=ROLE, RoleSessionName="pingora-completions", ExternalId="x/1")
    assert (vendor.last().path, form(vendor.last())) == (first.path, form(first))
    client.assume_role(RoleArn=CHAINED, RoleSessionName="pingora-completions")
    assert form(vendor.last()) == form(second)


def test_boto3_shows_a_web_identity_the_same(gateways, vendor):
    complete(gateways[1], "bedrock", MODELS[0])
    asked, call = vendor.asked
    assert "authorization" not in asked.headers
    assert call.headers["authorization"] == botocore_signs(call, OF_ROLE, "bedrock")
    client = aws("sts", vendor, signature_version=UNSIGNED)
    client.assume_role_with_web_identity(
        RoleArn=ROLE, RoleSessionName="pingora-completions", WebIdentityToken="eyJ.workload.token")
    assert (vendor.last().path, form(vendor.last())) == (asked.path, form(asked))


def test_botocore_asks_an_instance_s_metadata_the_same(gateways, vendor, monkeypatch):
    complete(gateways[1], "bedrock-invoke", "meta.llama3-8b-instruct-v1:0")
    *ours, call = vendor.asked
    assert call.headers["authorization"] == botocore_signs(call, OF_METADATA, "bedrock")
    vendor.asked.clear()
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    found = utils.InstanceMetadataFetcher(base_url=vendor.url).retrieve_iam_role_credentials()
    assert found["access_key"] == OF_METADATA[0]
    of_service = lambda asked: {name: value for name, value in asked.headers.items() if name.startswith("x-aws-")}
    assert [(asked.method, asked.path, of_service(asked)) for asked in ours] == [
        (asked.method, asked.path, of_service(asked)) for asked in vendor.asked
    ]


def test_botocore_asks_a_container_s_agent_the_same(gateways, vendor):
    complete(gateways[2], "bedrock", MODELS[0])
    ours, call = vendor.asked
    assert call.headers["authorization"] == botocore_signs(call, OF_METADATA, "bedrock")
    utils.ContainerMetadataFetcher().retrieve_full_uri(
        f"{vendor.url}/v1/creds?a=b", headers={"Authorization": "eyJ.workload.token"})
    theirs = vendor.last()
    assert theirs is not call
    told = lambda asked: (asked.method, asked.path, asked.headers["authorization"], asked.headers["accept"], asked.body)
    assert told(ours) == told(theirs)


def test_google_s_library_verifies_the_assertion(gateways, vendor):
    complete(gateways[0], "vertex-ai", "google/gemini-2.5-flash")
    asked, call = vendor.asked
    sent = form(asked)
    assert sent["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    public = KEY.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    # Signature, `aud`, `iat` and `exp` are checked there.
    claims = jwt.decode(sent["assertion"], certs={"kid-1": public}, audience="https://oauth2.googleapis.com/token")
    assert claims["iss"] == EMAIL and claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
    assert claims["exp"] - claims["iat"] == 3600
    assert call.headers["authorization"] == "Bearer t-1"
    of_ours = jwt.decode_header(sent["assertion"]), set(claims)
    info = dict(client_email=EMAIL, private_key=RSA.read_text(), private_key_id="kid-1", token_uri=f"{vendor.url}/token")
    account = service_account.Credentials.from_service_account_info(info, scopes=[claims["scope"]])
    account.refresh(google.auth.transport.requests.Request())
    theirs = form(vendor.last())
    assert set(theirs) == set(sent) and theirs["grant_type"] == sent["grant_type"]
    assert of_ours == (jwt.decode_header(theirs["assertion"]), set(jwt.decode(theirs["assertion"], verify=False)))
    with pytest.raises(ValueError):
        jwt.decode(sent["assertion"][:-8] + "AAAAAAAA", certs={"kid-1": public})


class Local(RequestsTransport):
    """Takes what Azure's library sends to its own services to the double."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    def send(self, request, **options):
        request.url = re.sub("^https?://[^/]+", self.url, request.url)
        return super().send(request, **options)


def azures_request(vendor, credential):
    assert credential.get_token(SCOPE).token == "t-1"
    return vendor.last()


def judge_form(ours, theirs):
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    ours, theirs = form(ours), form(theirs)
    # It asks to be told of its account too, which an app has none of.
    theirs.pop("client_info", None)
    assert ours == theirs


def test_azure_s_library_sends_an_app_s_secret_the_same(gateways, vendor):
    complete(gateways[0], "azure-openai", "gpt-35-turbo-instruct")
    ours, call = vendor.asked
    assert call.headers["authorization"] == "Bearer t-1"
    credential = azure.identity.ClientSecretCredential(
        TENANT, "app-1", "s&=\u00e9", disable_instance_discovery=True, transport=Local(vendor.url))
    judge_form(ours, azures_request(vendor, credential))


def test_azure_s_library_shows_a_workload_s_token_the_same(gateways, vendor, tmp_path):
    complete(gateways[0], "azure-ai", "gpt-4o-mini")
    ours, call = vendor.asked
    assert call.headers["authorization"] == "Bearer t-1"
    token = tmp_path / "token"
    token.write_text("eyJ.workload.token")
    credential = azure.identity.WorkloadIdentityCredential(
        tenant_id=TENANT, client_id="app-2", token_file_path=str(token), disable_instance_discovery=True,
        transport=Local(vendor.url))
    judge_form(ours, azures_request(vendor, credential))


@pytest.mark.parametrize("provider, client", [("azure-openai", None), ("azure-ai", "id-1")])
def test_azure_s_library_asks_for_a_managed_identity_the_same(gateways, vendor, provider, client):
    complete(gateways[1], provider, "gpt-4o-mini")
    ours, call = vendor.asked
    assert call.headers["authorization"] == "Bearer t-1"
    credential = azure.identity.ManagedIdentityCredential(client_id=client, transport=Local(vendor.url))
    theirs = azures_request(vendor, credential)
    query = lambda asked: urllib.parse.parse_qs(asked.path.partition("?")[2], strict_parsing=True)
    assert ours.path.partition("?")[0] == theirs.path.partition("?")[0]
    assert (ours.method, query(ours)) == (theirs.method, query(theirs))
    assert ours.headers["metadata"].lower() == theirs.headers["metadata"].lower() == "true"


@pytest.mark.parametrize(
    "method, path, body",
    [("POST", "/v1/completions", None), ("GET", "/20231130/models?a=%20b", None), ("PUT", "/20231130/x", b"{}"),
     ("POST", "/20231130/x", b"\xc3\xa9")],
)
def test_an_oracle_signature_verifies_by_the_published_rule(gateways, vendor, method, path, body):
    """<https://docs.oracle.com/iaas/Content/API/Concepts/signingrequests.htm>; what Oracle's SDK itself signs is in
    tests/fixtures/credentials/oci.json."""
    if path == "/v1/completions":
        complete(gateways[0], "oracle", "cohere.command-r-08-2024", compartmentId="ocid1.compartment.oc1..a")
    else:
        send(gateways[0], "oracle", path, method, body)
    asked = vendor.last()
    told = dict(re.findall(r'(\w+)="([^"]*)"', asked.headers["authorization"]))
    assert told["keyId"] == "ocid1.tenancy.oc1..aaaa/ocid1.user.oc1..bbbb/20:3b:97:13:55:1c"
    assert (told["version"], told["algorithm"]) == ("1", "rsa-sha256")
    names = told["headers"].split(" ")
    needed = {"date", "(request-target)", "host"}
    if method != "GET":
        needed |= {"content-length", "content-type", "x-content-sha256"}
        digest = hashlib.sha256(asked.body).digest()
        assert base64.b64decode(asked.headers["x-content-sha256"]) == digest
    assert set(names) == needed
    moment = email.utils.parsedate_to_datetime(asked.headers["date"])
    assert abs(moment.timestamp() - time.time()) < 60
    value = {"(request-target)": f"{asked.method.lower()} {asked.path}"} | asked.headers
    text = "\n".join(f"{name}: {value[name]}" for name in names)
    KEY.verify(base64.b64decode(told["signature"]), text.encode(), padding.PKCS1v15(), hashes.SHA256())
