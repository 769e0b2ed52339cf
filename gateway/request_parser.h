// From a message's bytes to the message, with an error that names the field: gRPC itself would answer a damaged
// message or a string that is not UTF-8 with a status that says nothing.
#ifndef CONCLAVE_GATEWAY_REQUEST_PARSER_H_
#define CONCLAVE_GATEWAY_REQUEST_PARSER_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace conclave {

// Fills `message`. INVALID_ARGUMENT: "chat.messages.content: is not UTF-8", or that the bytes are no such message.
absl::Status ParseRequest(absl::string_view bytes, google::protobuf::Message* message);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_REQUEST_PARSER_H_
