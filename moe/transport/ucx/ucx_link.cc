#include "moe/transport/ucx/ucx_link.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moe/base/check.h"
#include "moe/transport/data_plane/socket_address.h"

namespace conclave {

UcxLink::~UcxLink() {
  // UCX would write into a link that is gone.
  CONCLAVE_CHECK(idle()) << slots_used_ + offers_.size() << " fragments are under way";
}

void UcxLink::OnError(void* link, ucp_ep_h, ucs_status_t status) {
  auto& self = *static_cast<UcxLink*>(link);
  if (self.why_.ok()) self.why_ = absl::UnavailableError(absl::StrCat("connection lost: ", ucs_status_string(status)));
}

absl::Status UcxLink::Open(ucp_ep_params_t& parameters) {
  parameters.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  parameters.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  parameters.err_handler = {&UcxLink::OnError, this};
  const ucs_status_t status = ucp_ep_create(worker_.handle(), &parameters, &endpoint_);
  if (status != UCS_OK) endpoint_ = nullptr;
  return status == UCS_OK ? absl::OkStatus() : UcxError("connecting", status);
}

absl::Status UcxLink::Connect(const std::string& address) {
  absl::StatusOr<SocketAddress> socket = SocketAddress::Parse(address);
  if (!socket.ok()) return socket.status();
  ucp_ep_params_t parameters = {};
  parameters.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  parameters.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  parameters.sockaddr = {socket->get(), socket->length()};
  return Open(parameters);
}

absl::Status UcxLink::Accept(ucp_conn_request_h request) {
  ucp_ep_params_t parameters = {};
  parameters.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  parameters.conn_request = request;
  return Open(parameters);
}

void UcxLink::Push(OutgoingMessage* message) {
  CONCLAVE_CHECK(message->idle()) << "sent twice";
  message->handed_over = 0;
  if (closed() || broken()) return;
  const WireHeader& header = message->header;
  if ((header.flags & kWireChecksummed) != 0 && !ChecksumComesLast(header)) AddUp(message);
  message->queued = true;
  queue_.push_back(message);
  Pump();
}

// For a peer that looks for the checksum in every fragment.
void UcxLink::AddUp(OutgoingMessage* message) {
  WireChecksum checksum;
  checksum.Begin(message->header);
  checksum.Add(message->meta, message->meta_bytes);
  checksum.Add(message->rows, SentBytes(message->header) - message->meta_bytes);
  message->header.checksum = checksum.Digest();
}

void UcxLink::Pump() {
  while (!queue_.empty() && !closed() && !broken()) {
    OutgoingMessage& message = *queue_.front();
    if (!SendNext(message)) return;
    if (message.handed_over < static_cast<int64_t>(message.header.body_bytes)) continue;
    message.queued = false;
    queue_.pop_front();
  }
}

UcxLink::Slot& UcxLink::NewSlot(bool offer) {
  if (offer) return *offers_.emplace_back(std::make_unique<Slot>());
  ++slots_used_;
  return *std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.message == nullptr; });
}

// False: UCX has as much as it may have for now, the next fragment is not complete, or the link broke.
bool UcxLink::SendNext(OutgoingMessage& message) {
  if (slots_used_ == kSlots) return false;
  const int64_t begin = message.handed_over, body = static_cast<int64_t>(message.header.body_bytes);
  const int64_t sent = SentBytes(message.header);  // what comes after it is fetched, in one piece
  const bool fetched = begin == sent && sent < body;
  const int64_t end = fetched ? body : std::min(begin + fragment_bytes_, sent);
  if (!fetched && end > message.complete_bytes) return false;
  Slot& slot = NewSlot(fetched);
  slot.link = this;
  slot.message = &message;
  slot.header = message.header;
  slot.header.offset = static_cast<uint64_t>(begin);
  // UCX reads these only; its type for parts serves receives too.
  const auto part = [](const std::byte* data, int64_t count) {
    return ucp_dt_iov_t{const_cast<std::byte*>(data), static_cast<size_t>(count)};
  };
  size_t parts = 0;
  if (begin < message.meta_bytes) {
    slot.parts[parts++] = part(message.meta + begin, std::min(end, message.meta_bytes) - begin);
  }
  if (end > message.meta_bytes) {
    const int64_t from = std::max(begin, message.meta_bytes) - message.meta_bytes;
    slot.parts[parts++] = part(message.rows + from, end - message.meta_bytes - from);
  }
  if (ChecksumComesLast(message.header)) {
    if (begin == 0) checksum_.Begin(message.header);
    for (size_t i = 0; i < parts && !fetched; ++i) {
      checksum_.Add(slot.parts[i].buffer, static_cast<int64_t>(slot.parts[i].length));
    }
    if (end == body) slot.header.checksum = checksum_.Digest();
  }
  ucp_request_param_t parameters = {};
  parameters.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                            UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  parameters.cb.send = &UcxLink::OnSent;
  parameters.user_data = &slot;
  parameters.flags = (fetched ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER) | UCP_AM_SEND_FLAG_REPLY;
  parameters.memory_type = fetched ? worker_.device_memory_type() : UCS_MEMORY_TYPE_HOST;
  const void* buffer = parts == 1 ? slot.parts[0].buffer : slot.parts.data();
  size_t count = parts == 1 ? slot.parts[0].length : parts;
  if (parts > 1) {
    parameters.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    parameters.datatype = ucp_dt_make_iov();
  } else if (parts == 0) {
    count = 0;
  }
  ++message.pending;
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(endpoint_, kWireActiveMessage, &slot.header, sizeof(slot.header), buffer, count, &parameters);
  if (UCS_PTR_IS_PTR(request)) {
    message.handed_over = end;
    return true;
  }
  Release(slot);
  if (UCS_PTR_IS_ERR(request)) {
    if (why_.ok()) why_ = UcxError("sending", UCS_PTR_STATUS(request));
    return false;
  }
  message.handed_over = end;
  return true;
}

void UcxLink::Release(Slot& slot) {
  --slot.message->pending;
  const auto offer = std::find_if(offers_.begin(), offers_.end(), [&](const auto& o) { return o.get() == &slot; });
  if (offer != offers_.end()) {
    offers_.erase(offer);
    return;
  }
  slot.message = nullptr;
  --slots_used_;
}

void UcxLink::OnSent(void* request, ucs_status_t status, void* slot) {
  auto& self = *static_cast<Slot*>(slot);
  if (self.link == nullptr) {
    delete &self;
    return ucp_request_free(request);
  }
  UcxLink& link = *self.link;
  if (status != UCS_OK && link.why_.ok()) link.why_ = UcxError("sending", status);
  link.Release(self);
  ucp_request_free(request);
}

bool UcxLink::Withdraw(OutgoingMessage* message) {
  if (!message->queued || message->handed_over > 0) return message->idle() && message->handed_over == 0;
  queue_.erase(std::find(queue_.begin(), queue_.end(), message));
  message->queued = false;
  return true;
}

void UcxLink::LetGo(const OutgoingMessage* message) {
  if (worker_.device_memory_type() != UCS_MEMORY_TYPE_CUDA) return;
  for (size_t i = offers_.size(); i-- > 0;) {
    if (message != nullptr && offers_[i]->message != message) continue;
    --offers_[i]->message->pending;
    offers_[i]->link = nullptr;
    [[maybe_unused]] Slot* const left = offers_[i].release();  // UCX may read its header as long as it likes
    offers_.erase(offers_.begin() + static_cast<int64_t>(i));
  }
}

void UcxLink::Close() {
  for (OutgoingMessage* message : queue_) message->queued = false;
  queue_.clear();
  if (closed()) return;
  worker_.Close(std::exchange(endpoint_, nullptr));
  if (why_.ok()) why_ = absl::UnavailableError("connection closed");
  LetGo(nullptr);
}

std::string UcxLink::InspectWires() {
  char* text = nullptr;
  size_t length = 0;
  FILE* stream = open_memstream(&text, &length);
  if (stream == nullptr || closed()) return "unknown";
  // UCX 1.13 tells it in print alone. A line such as "lane[1]: 3:posix/memory.0 md[2] -> md[2]/posix/… am am_bw#0".
  ucp_ep_print_info(endpoint_, stream);
  fclose(stream);
  std::string wires = "unknown";
  for (absl::string_view line : absl::StrSplit(absl::string_view(text, length), '\n')) {
    if (!absl::StrContains(line, "lane[")) continue;
    reaches_devices_ = reaches_devices_ || absl::StrContains(line, ":cuda_ipc");
    if (!absl::StrContains(line, " am ")) continue;
    const std::vector<absl::string_view> halves = absl::StrSplit(line, absl::MaxSplits('/', 1));
    wires = std::string(halves[0].substr(halves[0].rfind(':') + 1));
  }
  free(text);
  const bool shared = wires == "posix";
  // Between machines only what reaches devices by itself: UCX's own way through host memory is no better than ours.
  reaches_devices_ = reaches_devices_ || (!shared && wires != "tcp" && wires != "unknown" && wires != "self");
  fragment_bytes_ = shared || wires == "unknown" ? kFragmentBytesShared : kFragmentBytesOther;
  return shared ? "shared memory" : wires;
}

}  // namespace conclave
