//! The base URLs that have variables, vendor by vendor.

use crate::{
    completion::Parameter::{
        self, BestOf, Echo, LogitBias, Logprobs, N, PresencePenalty, Suffix, TokenIds,
    },
    dialect::{
        anthropic::ANTHROPIC,
        fim::FIM,
        openai::{OPENAI, OPENAI_UNCOUNTED},
    },
    provider::place::{
        Condition::{Before, Ends, Is, Named},
        Default, Grammar, Owner, Slot, Speech, Template,
    },
};

/// <https://learn.microsoft.com/azure/ai-foundry/openai/reference>. The
/// [v1 API](https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle) has no version, or `preview`, and names the
/// deployment in `model`. `stream_options` came to completions with
/// [2024-09-01-preview](https://github.com/Azure/azure-rest-api-specs/tree/main/specification/cognitiveservices/data-plane/AzureOpenAI/inference);
/// before it they are an "unrecognized request argument".
pub static AZURE_OPENAI: &[Template] = &[
    Template {
        only_if: Is("api_version", "v1"),
        ..Template::at(AZURE_V1, &[AZURE_RESOURCE, NO_DEPLOYMENT])
    },
    Template {
        query: "api-version={api_version}",
        only_if: Is("api_version", "preview"),
        ..Template::at(
            AZURE_V1,
            &[AZURE_RESOURCE, NO_DEPLOYMENT, azure_version("2024-10-21")],
        )
    },
    Template {
        only_if: Before("api_version", "2024-09"),
        speaks: Some(Speech {
            dialect: &OPENAI_UNCOUNTED,
            refuses: &[],
        }),
        ..AZURE_DEPLOYMENTS
    },
    AZURE_DEPLOYMENTS,
];

const AZURE_V1: &str = "https://{resource_name}.openai.azure.com/openai/v1";

const AZURE_DEPLOYMENTS: Template = Template {
    query: "api-version={api_version}",
    ..Template::at(
        "https://{resource_name}.openai.azure.com/openai/deployments/{deployment_id}",
        &[
            AZURE_RESOURCE,
            Slot {
                grammar: Grammar::Name,
                default: Default::Model,
                ..AZURE_DEPLOYMENT
            },
            azure_version("2024-10-21"),
        ],
    )
};

const AZURE_DEPLOYMENT: Slot = Slot::new("deployment_id", "x-portkey-azure-deployment-id");

const NO_DEPLOYMENT: Slot = Slot {
    grammar: Grammar::Unused("the v1 API takes the deployment's name in `model`"),
    default: Default::Absent,
    ..AZURE_DEPLOYMENT
};

/// <https://learn.microsoft.com/azure/ai-foundry/model-inference/reference/reference-model-inference-chat-completions>. A whole URL is
/// a resource's, a serverless deployment's or a managed online endpoint's; its version is the one that is named, or none. Below
/// `/anthropic` stands [Claude](https://platform.claude.com/docs/en/build-with-claude/claude-in-microsoft-foundry).
pub static AZURE_AI: &[Template] = &[
    Template {
        query: "api-version={api_version}",
        only_if: Ends("azure_foundry_url", "/anthropic"),
        speaks: Some(Speech {
            dialect: &ANTHROPIC,
            refuses: &[],
        }),
        ..Template::at("{azure_foundry_url}/v1", AZURE_FOUNDRY)
    },
    Template {
        query: "api-version={api_version}",
        only_if: Named("azure_foundry_url"),
        ..Template::at("{azure_foundry_url}", AZURE_FOUNDRY)
    },
    Template {
        query: "api-version={api_version}",
        ..Template::at(
            "https://{resource_name}.services.ai.azure.com/models",
            &[AZURE_RESOURCE, azure_version("2024-05-01-preview")],
        )
    },
];

const AZURE_FOUNDRY: &[Slot] = &[
    Slot {
        grammar: Grammar::Url(&[
            ".services.ai.azure.com",
            ".models.ai.azure.com",
            ".inference.ml.azure.com",
            ".openai.azure.com",
            ".cognitiveservices.azure.com",
        ]),
        owner: Owner::Tenant,
        default: Default::Absent,
        example: "https://demo.services.ai.azure.com/models",
        ..Slot::new("azure_foundry_url", "x-portkey-azure-foundry-url")
    },
    Slot {
        default: Default::Absent,
        ..azure_version("2024-05-01-preview")
    },
];

const AZURE_RESOURCE: Slot = Slot {
    owner: Owner::Tenant,
    ..Slot::new("resource_name", "x-portkey-azure-resource-name")
};

const fn azure_version(default: &'static str) -> Slot {
    Slot {
        grammar: Grammar::Name,
        default: Default::Value(default),
        example: default,
        ..Slot::new("api_version", "x-portkey-azure-api-version")
    }
}

/// <https://docs.snowflake.com/en/user-guide/snowflake-cortex/open_ai_sdk>.
pub static CORTEX: &[Template] = &[Template::at(
    "https://{snowflake_account}.snowflakecomputing.com/api/v2/cortex/v1",
    &[Slot {
        grammar: Grammar::Name,
        owner: Owner::Tenant,
        ..Slot::new("snowflake_account", "x-portkey-snowflake-account")
    }],
)];

/// <https://huggingface.co/docs/inference-providers>; a dedicated endpoint, <https://huggingface.co/docs/inference-endpoints>, has
/// text completions whichever engine it runs. What Text Generation Inference would ignore of them is refused.
pub static HUGGINGFACE: &[Template] = &[
    Template {
        only_if: Named("huggingface_base_url"),
        speaks: Some(Speech {
            dialect: &OPENAI,
            refuses: TGI_LACKS,
        }),
        ..Template::at(
            "{huggingface_base_url}/v1",
            &[Slot {
                default: Default::Absent,
                ..HUGGINGFACE_ENDPOINT
            }],
        )
    },
    Template::at("https://router.huggingface.co/v1", &[]),
];

/// A dedicated endpoint that runs Text Generation Inference, by that server's own API.
pub static HUGGINGFACE_TGI: &[Template] = &[Template::at(
    "{huggingface_base_url}",
    &[HUGGINGFACE_ENDPOINT],
)];

const HUGGINGFACE_ENDPOINT: Slot = Slot {
    grammar: Grammar::Origin(&[".endpoints.huggingface.cloud"]),
    owner: Owner::Tenant,
    example: "https://demo.us-east-1.aws.endpoints.huggingface.cloud",
    ..Slot::new("huggingface_base_url", "x-portkey-huggingface-base-url")
};

/// Fields of OpenAI's that Text Generation Inference reads and forgets.
pub const TGI_LACKS: &[Parameter] = &[
    TokenIds,
    N,
    PresencePenalty,
    Suffix,
    Echo,
    BestOf,
    Logprobs,
    LogitBias,
];

/// <https://docs.mistral.ai/api>. Portkey's header sends a prompt without a suffix to be continued too.
pub static MISTRAL_AI: &[Template] = &[
    Template {
        only_if: Is("mistral_fim_completion", "true"),
        speaks: Some(Speech {
            dialect: &FIM,
            refuses: &[],
        }),
        ..MISTRAL_API
    },
    MISTRAL_API,
];

const MISTRAL_API: Template = Template::at(
    "https://api.mistral.ai/v1",
    &[Slot {
        default: Default::Absent,
        example: "true",
        ..Slot::new("mistral_fim_completion", "x-portkey-mistral-fim-completion")
    }],
);

/// <https://docs.predibase.com/user-guide/inference/migrate-openai>: the deployment stands in the path, and `model` names
/// an adapter, or the deployment once more.
pub static PREDIBASE: &[Template] = &[Template::at(
    "https://serving.app.predibase.com/{predibase_tenant_id}/deployments/v2/llms/{predibase_deployment}/v1",
    &[
        Slot {
            grammar: Grammar::Name,
            ..Slot::new("predibase_tenant_id", "x-portkey-predibase-tenant-id")
        },
        Slot {
            grammar: Grammar::Name,
            default: Default::Model,
            ..Slot::new("predibase_deployment", "x-portkey-predibase-deployment")
        },
    ],
)];

/// <https://developers.cloudflare.com/workers-ai/get-started/rest-api/>.
pub static WORKERS_AI: &[Template] = &[Template::at(
    "https://api.cloudflare.com/client/v4/accounts/{workers_ai_account_id}",
    &[Slot {
        grammar: Grammar::Name,
        ..Slot::new("workers_ai_account_id", "x-portkey-workers-ai-account-id")
    }],
)];

/// <https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations>: the global endpoint has a host of its own.
pub static VERTEX_AI: &[Template] = &[
    Template {
        only_if: Is("vertex_region", "global"),
        ..Template::at(
            "https://aiplatform.googleapis.com/v1/projects/{vertex_project_id}/locations/global",
            &[VERTEX_PROJECT, VERTEX_REGION],
        )
    },
    Template::at(
        "https://{vertex_region}-aiplatform.googleapis.com/v1/projects/{vertex_project_id}/locations/{vertex_region}",
        &[VERTEX_PROJECT, VERTEX_REGION],
    ),
];

const VERTEX_PROJECT: Slot = Slot::new("vertex_project_id", "x-portkey-vertex-project-id");

const VERTEX_REGION: Slot = Slot {
    default: Default::Value("us-central1"),
    example: "us-central1",
    ..Slot::new("vertex_region", "x-portkey-vertex-region")
};

/// <https://docs.aws.amazon.com/general/latest/gr/bedrock.html>.
pub static BEDROCK: &[Template] = &[Template::at(
    "https://bedrock-runtime.{aws_region}.amazonaws.com",
    &[AWS_REGION],
)];

/// <https://docs.aws.amazon.com/general/latest/gr/sagemaker.html>. The endpoint is the model, unless it is named apart: then `model` is
/// what its container calls it.
pub static SAGEMAKER: &[Template] = &[Template::at(
    "https://runtime.sagemaker.{aws_region}.amazonaws.com/endpoints/{sagemaker_endpoint}",
    &[
        AWS_REGION,
        Slot {
            default: Default::Model,
            ..Slot::new("sagemaker_endpoint", "x-portkey-sagemaker-endpoint")
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-custom-attributes"),
            ..sagemaker(
                "amzn_sagemaker_custom_attributes",
                "x-portkey-amzn-sagemaker-custom-attributes",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-target-model"),
            ..sagemaker(
                "amzn_sagemaker_target_model",
                "x-portkey-amzn-sagemaker-target-model",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-target-variant"),
            ..sagemaker(
                "amzn_sagemaker_target_variant",
                "x-portkey-amzn-sagemaker-target-variant",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-target-container-hostname"),
            ..sagemaker(
                "amzn_sagemaker_target_container_hostname",
                "x-portkey-amzn-sagemaker-target-container-hostname",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-inference-id"),
            ..sagemaker(
                "amzn_sagemaker_inference_id",
                "x-portkey-amzn-sagemaker-inference-id",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-enable-explanations"),
            ..sagemaker(
                "amzn_sagemaker_enable_explanations",
                "x-portkey-amzn-sagemaker-enable-explanations",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-inference-component"),
            ..sagemaker(
                "amzn_sagemaker_inference_component",
                "x-portkey-amzn-sagemaker-inference-component",
            )
        },
        Slot {
            sent_as: Some("x-amzn-sagemaker-session-id"),
            ..sagemaker(
                "amzn_sagemaker_session_id",
                "x-portkey-amzn-sagemaker-session-id",
            )
        },
    ],
)];

/// A header of the runtime's.
const fn sagemaker(name: &'static str, header: &'static str) -> Slot {
    Slot {
        grammar: Grammar::Text,
        default: Default::Absent,
        ..Slot::new(name, header)
    }
}

const AWS_REGION: Slot = Slot {
    default: Default::Value("us-east-1"),
    example: "us-east-1",
    ..Slot::new("aws_region", "x-portkey-aws-region")
};

/// <https://docs.oracle.com/en-us/iaas/api/#/en/generative-ai-inference/20231130/>.
pub static ORACLE: &[Template] = &[Template::at(
    "https://inference.generativeai.{oracle_region}.oci.oraclecloud.com",
    &[Slot {
        example: "us-chicago-1",
        ..Slot::new("oracle_region", "x-portkey-oracle-region")
    }],
)];

/// <https://cloud.ibm.com/apidocs/watsonx-ai#endpoint-url>.
pub static WATSONX: &[Template] = &[Template::at(
    "https://{watsonx_region}.ml.cloud.ibm.com",
    &[Slot {
        default: Default::Value("us-south"),
        example: "us-south",
        ..Slot::new("watsonx_region", "x-portkey-watsonx-region")
    }],
)];
