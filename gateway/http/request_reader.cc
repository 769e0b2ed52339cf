#include "gateway/http/request_reader.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// Of a target such as "/v1/models?a=b", or of a whole URL, which RFC 9112 (section 3.2.2) has servers take as well.
std::string PathOf(absl::string_view target) {
  if (absl::StartsWithIgnoreCase(target, "http://") || absl::StartsWithIgnoreCase(target, "https://")) {
    target.remove_prefix(target.find("//") + 2);
    target.remove_prefix(std::min(target.find_first_of("/?"), target.size()));
    if (target.empty() || target.front() == '?') return "/";
  }
  return std::string(target.substr(0, target.find('?')));
}

namespace http = boost::beast::http;

// A chunk's size and extensions; longer ones are nobody's honest work.
constexpr size_t kChunkHeaderBytesMax = 4096;

absl::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

// The library's reason as a status and a sentence.
RequestFailure Explain(const boost::beast::error_code& error, const RequestLimits& limits) {
  if (error == http::error::header_limit) {
    return {431, absl::StrCat("The request line and headers are longer than ", limits.header_bytes_max, " bytes.")};
  }
  if (error == http::error::body_limit) {
    return {413, absl::StrCat("The body is longer than ", limits.body_bytes_max, " bytes.")};
  }
  if (error == http::error::bad_version) return {505, "This server speaks HTTP/1.1 and HTTP/1.0."};
  if (error == http::error::bad_chunk || error == http::error::bad_chunk_extension) {
    return {400, "The chunked body is damaged: a chunk's size is not a hexadecimal number in range."};
  }
  if (error == http::error::bad_content_length)
    return {400, "Content-Length is not one number, or contradicts others."};
  if (error == http::error::bad_transfer_encoding) {
    return {400, "Transfer-Encoding must not stand beside Content-Length, nor twice."};
  }
  return {400, absl::StrCat("The request is not HTTP: ", error.message(), ".")};
}

}  // namespace

struct RequestReader::Parser {
  http::request_parser<http::string_body> parser;
};

RequestReader::RequestReader(const RequestLimits& limits) : limits_(limits), parser_(std::make_unique<Parser>()) {
  parser_->parser.header_limit(static_cast<uint32_t>(limits.header_bytes_max));
  parser_->parser.body_limit(static_cast<uint64_t>(limits.body_bytes_max));
}

RequestReader::~RequestReader() = default;

int64_t RequestReader::body_bytes() const {
  return static_cast<int64_t>(state_ == State::kDone ? request_.body.size() : parser_->parser.get().body().size());
}

void RequestReader::Fail(int status, std::string message) {
  state_ = State::kFailed;
  failure_ = {status, std::move(message)};
}

size_t RequestReader::Feed(absl::string_view data) {
  auto& parser = parser_->parser;
  if (state_ == State::kHeadDone) {
    state_ = State::kBody;
    parser.eager(true);
  }
  boost::beast::error_code error;
  size_t taken = 0;
  // In the body, `put` may want to be called again for what it has not taken.
  while (taken < data.size() && !parser.is_done()) {
    const bool had_head = parser.is_header_done();
    const size_t bytes = parser.put(boost::asio::buffer(data.data() + taken, data.size() - taken), error);
    taken += bytes;
    if (error) break;
    if (!had_head && parser.is_header_done()) {
      TakeHead();
      return taken;
    }
    if (bytes == 0) break;
  }
  if (error == http::error::need_more) {
    error = {};
    if (state_ == State::kBody && data.size() - taken > kChunkHeaderBytesMax) {
      Fail(400, absl::StrCat("A chunk's header is longer than ", kChunkHeaderBytesMax, " bytes."));
      return taken;
    }
  }
  if (error) {
    state_ = State::kFailed;
    failure_ = Explain(error, limits_);
  } else if (state_ == State::kBody && parser.is_done()) {
    request_.body = std::move(parser.get().body());
    state_ = State::kDone;
  }
  return taken;
}

void RequestReader::TakeHead() {
  const auto& message = parser_->parser.get();
  const absl::string_view target = View(message.target());
  request_.method = std::string(View(message.method_string()));
  request_.path = PathOf(target);
  request_.http_1_0 = message.version() == 10;
  request_.keep_alive = message.keep_alive();
  for (const auto& field : message) {
    request_.headers.push_back({std::string(View(field.name_string())), std::string(View(field.value()))});
  }
  if (static_cast<int>(request_.headers.size()) > limits_.headers_max) {
    return Fail(431, absl::StrCat("The request has ", request_.headers.size(), " headers; at most ",
                                  limits_.headers_max, " are taken."));
  }
  const auto hosts = std::count_if(request_.headers.begin(), request_.headers.end(), [](const HttpHeader& header) {
    return absl::EqualsIgnoreCase(header.name, "Host");
  });
  if (hosts > 1 || (hosts == 0 && !request_.http_1_0)) return Fail(400, "There must be one Host header.");
  const absl::string_view coding = absl::StripAsciiWhitespace(request_.Header("Transfer-Encoding"));
  if (!coding.empty() && !absl::EqualsIgnoreCase(coding, "chunked")) {
    return Fail(501, "Of transfer codings, this server knows chunked alone.");
  }
  const absl::string_view content_coding = absl::StripAsciiWhitespace(request_.Header("Content-Encoding"));
  if (!content_coding.empty() && !absl::EqualsIgnoreCase(content_coding, "identity")) {
    return Fail(415, "Content-Encoding: bodies must come as they are, not compressed.");
  }
  const auto length = parser_->parser.content_length();
  content_length_ = parser_->parser.chunked() ? -1 : (length ? static_cast<int64_t>(*length) : 0);
  request_.expects_continue =
      !request_.http_1_0 && content_length_ != 0 && absl::EqualsIgnoreCase(request_.Header("Expect"), "100-continue");
  // A request without a body is complete with its head, but says so only when it is asked again.
  state_ = State::kHeadDone;
  if (content_length_ == 0) state_ = State::kDone;
}

}  // namespace conclave
