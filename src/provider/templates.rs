//! The base URLs that have variables, vendor by vendor.

use crate::provider::place::{Default, Grammar, Owner, Slot, Template};

/// <https://learn.microsoft.com/azure/ai-services/openai/reference>; the v1 API has no version and names the model itself.
pub const AZURE_OPENAI: &[Template] = &[
    Template {
        url: "https://{resource_name}.openai.azure.com/openai/v1",
        query: "",
        only_if: Some(("api_version", "v1")),
        slots: &[AZURE_RESOURCE],
    },
    Template {
        url: "https://{resource_name}.openai.azure.com/openai/deployments/{deployment_id}",
        query: "api-version={api_version}",
        only_if: None,
        slots: &[
            AZURE_RESOURCE,
            Slot {
                name: "deployment_id",
                header: "x-portkey-azure-deployment-id",
                grammar: Grammar::Name,
                owner: Owner::Vendor,
                default: Default::Model,
                example: "demo",
            },
            azure_version("2024-10-21"),
        ],
    },
];

/// <https://learn.microsoft.com/azure/ai-foundry/model-inference/reference/reference-model-inference-chat-completions>.
pub const AZURE_AI: &[Template] = &[Template {
    url: "https://{resource_name}.services.ai.azure.com/models",
    query: "api-version={api_version}",
    only_if: None,
    slots: &[AZURE_RESOURCE, azure_version("2024-05-01-preview")],
}];

const AZURE_RESOURCE: Slot = Slot {
    name: "resource_name",
    header: "x-portkey-azure-resource-name",
    grammar: Grammar::Label,
    owner: Owner::Tenant,
    default: Default::None,
    example: "demo",
};

const fn azure_version(default: &'static str) -> Slot {
    Slot {
        name: "api_version",
        header: "x-portkey-azure-api-version",
        grammar: Grammar::Name,
        owner: Owner::Vendor,
        default: Default::Value(default),
        example: default,
    }
}

/// <https://docs.snowflake.com/en/user-guide/snowflake-cortex/open_ai_sdk>.
pub const CORTEX: &[Template] = &[Template {
    url: "https://{snowflake_account}.snowflakecomputing.com/api/v2/cortex/v1",
    query: "",
    only_if: None,
    slots: &[Slot {
        name: "snowflake_account",
        header: "x-portkey-snowflake-account",
        grammar: Grammar::Name,
        owner: Owner::Tenant,
        default: Default::None,
        example: "demo",
    }],
}];

/// <https://docs.predibase.com/user-guide/inference/migrate-openai>: the deployment stands in the path, and `model` names
/// an adapter, or the deployment once more.
pub const PREDIBASE: &[Template] = &[Template {
    url: "https://serving.app.predibase.com/{predibase_tenant_id}/deployments/v2/llms/{predibase_deployment}/v1",
    query: "",
    only_if: None,
    slots: &[
        Slot {
            name: "predibase_tenant_id",
            header: "x-portkey-predibase-tenant-id",
            grammar: Grammar::Name,
            owner: Owner::Vendor,
            default: Default::None,
            example: "demo",
        },
        Slot {
            name: "predibase_deployment",
            header: "x-portkey-predibase-deployment",
            grammar: Grammar::Name,
            owner: Owner::Vendor,
            default: Default::Model,
            example: "demo",
        },
    ],
}];

/// <https://developers.cloudflare.com/workers-ai/get-started/rest-api/>.
pub const WORKERS_AI: &[Template] = &[Template {
    url: "https://api.cloudflare.com/client/v4/accounts/{workers_ai_account_id}",
    query: "",
    only_if: None,
    slots: &[Slot {
        name: "workers_ai_account_id",
        header: "x-portkey-workers-ai-account-id",
        grammar: Grammar::Name,
        owner: Owner::Vendor,
        default: Default::None,
        example: "demo",
    }],
}];

/// <https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations>: the global endpoint has a host of its own.
pub const VERTEX_AI: &[Template] = &[
    Template {
        url: "https://aiplatform.googleapis.com/v1/projects/{vertex_project_id}/locations/global",
        query: "",
        only_if: Some(("vertex_region", "global")),
        slots: &[VERTEX_PROJECT, VERTEX_REGION],
    },
    Template {
        url: "https://{vertex_region}-aiplatform.googleapis.com/v1/projects/{vertex_project_id}/locations/{vertex_region}",
        query: "",
        only_if: None,
        slots: &[VERTEX_PROJECT, VERTEX_REGION],
    },
];

const VERTEX_PROJECT: Slot = Slot {
    name: "vertex_project_id",
    header: "x-portkey-vertex-project-id",
    grammar: Grammar::Label,
    owner: Owner::Vendor,
    default: Default::None,
    example: "demo",
};

const VERTEX_REGION: Slot = Slot {
    name: "vertex_region",
    header: "x-portkey-vertex-region",
    grammar: Grammar::Label,
    owner: Owner::Vendor,
    default: Default::Value("us-central1"),
    example: "us-central1",
};

/// <https://docs.aws.amazon.com/general/latest/gr/bedrock.html>.
pub const BEDROCK: &[Template] = &[Template {
    url: "https://bedrock-runtime.{aws_region}.amazonaws.com",
    query: "",
    only_if: None,
    slots: &[Slot {
        name: "aws_region",
        header: "x-portkey-aws-region",
        grammar: Grammar::Label,
        owner: Owner::Vendor,
        default: Default::Value("us-east-1"),
        example: "us-east-1",
    }],
}];

/// <https://docs.oracle.com/en-us/iaas/api/#/en/generative-ai-inference/20231130/>.
pub const ORACLE: &[Template] = &[Template {
    url: "https://inference.generativeai.{oracle_region}.oci.oraclecloud.com",
    query: "",
    only_if: None,
    slots: &[Slot {
        name: "oracle_region",
        header: "x-portkey-oracle-region",
        grammar: Grammar::Label,
        owner: Owner::Vendor,
        default: Default::None,
        example: "us-chicago-1",
    }],
}];

/// <https://cloud.ibm.com/apidocs/watsonx-ai#endpoint-url>.
pub const WATSONX: &[Template] = &[Template {
    url: "https://{watsonx_region}.ml.cloud.ibm.com",
    query: "",
    only_if: None,
    slots: &[Slot {
        name: "watsonx_region",
        header: "x-portkey-watsonx-region",
        grammar: Grammar::Label,
        owner: Owner::Vendor,
        default: Default::Value("us-south"),
        example: "us-south",
    }],
}];
