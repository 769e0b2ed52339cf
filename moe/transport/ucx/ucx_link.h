// One UCX endpoint and the messages that go out over it, cut into fragments; both ends of the transport use it.
#ifndef CONCLAVE_MOE_TRANSPORT_UCX_UCX_LINK_H_
#define CONCLAVE_MOE_TRANSPORT_UCX_UCX_LINK_H_

#include <ucp/api/ucp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/transport/data_plane/wire.h"
#include "moe/transport/ucx/ucx_worker.h"

namespace conclave {

// A fragment fills one segment of shared memory (MM_SEG_SIZE) or of TCP (TX_SEG_SIZE, RX_SEG_SIZE) with its headers:
// UCX then copies it once on each side, and TCP's receiver never moves the beginning of one to the front of its buffer.
inline constexpr int64_t kFragmentBytesShared = 16384;
inline constexpr int64_t kFragmentBytesOther = 255 << 10;

inline constexpr unsigned kWireActiveMessage = 7;  // UCX's id of all our messages

// A message that is being sent. Non-owning: header aside, its memory belongs to whoever pushed it, and must stay as it
// is until idle(). The link fills in its checksum, where its flags ask for one.
struct OutgoingMessage {
  WireHeader header;
  const std::byte* meta = nullptr;  // the first meta_bytes of the body
  int64_t meta_bytes = 0;
  const std::byte* rows = nullptr;  // the rest of it; with kWireDeviceRows in the device's memory, else in ours
  // Bytes of the body that are as they stay; the others are sent once this has grown (and Pump is called).
  int64_t complete_bytes = std::numeric_limits<int64_t>::max();
  int64_t handed_over = 0;          // bytes of the body that UCX has
  int pending = 0;                  // fragments that UCX still reads
  bool queued = false;              // more is to be handed over
  bool idle() const { return !queued && pending == 0; }
};

// Used by its worker's thread. It may go once idle() is true after Close.
class UcxLink {
 public:
  explicit UcxLink(UcxWorker& worker) : worker_(worker) {}
  ~UcxLink();
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;

  // To a listener. `address`: a numeric host:port. What goes wrong later shows in broken().
  absl::Status Connect(const std::string& address);
  // At a listener.
  absl::Status Accept(ucp_conn_request_h request);

  // Sends `message` after those that were pushed before it. REQUIRES: message->idle()
  void Push(OutgoingMessage* message);
  // Hands more fragments over as far as UCX takes them. To be called after Progress.
  void Pump();
  // Forgets what has not been handed over of `message`, which is only possible where nothing has. False: something has.
  bool Withdraw(OutgoingMessage* message);

  // Rows on a CUDA device that the peer has not fetched need not stay as they are any longer, though their memory must
  // stay while the connection does: the peer may fetch them yet, or, where it cannot, have this end's UCX read them.
  // Nobody writes to them, and what the peer makes of them is nobody's. Of one message, or of all (null).
  void LetGo(const OutgoingMessage* message);
  // Ends the connection at once. Messages become idle within the next Progress calls, those of which LetGo speaks at
  // once: some releases of UCX never tell of them.
  void Close();
  bool closed() const { return endpoint_ == nullptr; }
  bool idle() const { return closed() && slots_used_ == 0 && offers_.empty(); }
  // The peer went, or the network says so.
  bool broken() const { return !why_.ok(); }
  const absl::Status& why() const { return why_; }
  ucp_ep_h endpoint() const { return endpoint_; }
  // Looks at the wires that UCX chose, which are known once a message has come from the peer: picks the size of
  // fragments, and tells "shared memory", "tcp" or what else it is.
  std::string InspectWires();
  // As InspectWires found it: one of the wires leads from device memory to device memory.
  bool reaches_devices() const { return reaches_devices_; }

 private:
  static constexpr int kSlots = 32;
  // A fragment that UCX reads: its header and parts must keep their place.
  struct Slot {
    UcxLink* link = nullptr;  // null: of an offer whose link was closed
    WireHeader header;
    std::array<ucp_dt_iov_t, 2> parts;
    OutgoingMessage* message = nullptr;  // null: free
  };

  void AddUp(OutgoingMessage* message);
  static void OnError(void* link, ucp_ep_h endpoint, ucs_status_t status);
  static void OnSent(void* request, ucs_status_t status, void* slot);
  absl::Status Open(ucp_ep_params_t& parameters);
  bool SendNext(OutgoingMessage& message);
  Slot& NewSlot(bool offer);
  void Release(Slot& slot);

  UcxWorker& worker_;
  ucp_ep_h endpoint_ = nullptr;
  absl::Status why_;
  int64_t fragment_bytes_ = kFragmentBytesShared;
  bool reaches_devices_ = false;
  std::deque<OutgoingMessage*> queue_;
  WireChecksum checksum_;  // of the first one's fragments so far, where it comes last
  std::array<Slot, kSlots> slots_;
  int slots_used_ = 0;
  std::vector<std::unique_ptr<Slot>> offers_;  // fragments that the peer fetches
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_UCX_UCX_LINK_H_
