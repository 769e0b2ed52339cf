// What a client must know to cut text into the served model's tokens and chats into its prompts itself.
#ifndef CONCLAVE_GATEWAY_HTTP_TOKENIZER_INFO_H_
#define CONCLAVE_GATEWAY_HTTP_TOKENIZER_INFO_H_

#include <string>

#include "gateway/served_model.h"

namespace conclave {

// JSON with the names of a tokenizer_config.json, as vLLM's /tokenizer_info gives it: what lm-evaluation-harness reads
// with tokenizer_backend=remote. What the model does not say is null.
std::string TokenizerInfo(const ServedModel& model);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_TOKENIZER_INFO_H_
