// What a request says about the shape of its answer: OpenAI's response_format, and vLLM's structured_outputs with its
// older names guided_json, guided_regex and guided_choice. Internal to the translation.
#ifndef CONCLAVE_GATEWAY_HTTP_FORMAT_FIELDS_H_
#define CONCLAVE_GATEWAY_HTTP_FORMAT_FIELDS_H_

#include "absl/strings/string_view.h"
#include "conclave/v1/inference.pb.h"
#include "gateway/http/body_fields.h"

namespace conclave {

// Sets the request's grammar, if there is to be one. body_text: the text that `fields` were read from; empty: they are
// as a tree would be written. Errors are left in `fields`, what is wrong with a schema too.
void ReadFormat(BodyFields& fields, absl::string_view body_text, v1::GenerateRequest& request);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_FORMAT_FIELDS_H_
