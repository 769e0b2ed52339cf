// The parts of a request's JSON that several endpoints share. Internal to the translation.
#ifndef CONCLAVE_GATEWAY_HTTP_COMMON_FIELDS_H_
#define CONCLAVE_GATEWAY_HTTP_COMMON_FIELDS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/http/api_request.h"
#include "gateway/http/body_fields.h"

namespace conclave {

// model, sampling, stop, n, stream and its options, the answer's format, and what is harmless or unsupported
// everywhere; `text` is what the fields were read from. Errors are left in `fields`.
void ReadCommonFields(BodyFields& fields, absl::string_view text, const TranslationOptions& options,
                      v1::GenerateRequest& request, ApiRequest& api);
// messages: roles, texts, calls and their results.
void ReadMessages(BodyFields& fields, v1::ChatPrompt& chat);
// A list of token ids under `name`, such as "prompt[3]".
void ReadTokenIds(BodyFields& fields, const std::string& name, const nlohmann::json& list,
                  google::protobuf::RepeatedField<int32_t>& ids);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_COMMON_FIELDS_H_
