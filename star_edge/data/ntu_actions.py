"""The 120 actions of NTU RGB+D in the order of their numbers A001 to A120, named as by the data set's authors."""

from __future__ import annotations

NTU_ACTIONS: tuple[str, ...] = tuple(
    """
drink water; eat meal; brush teeth; brush hair; drop; pick up; throw; sit down; stand up; clap; read; write; tear up paper;
put on jacket; take off jacket; put on a shoe; take off a shoe; put on glasses; take off glasses; put on a hat; take off a hat;
cheer up; wave hand; kick something; reach into pocket; hop; jump up; phone call; play with phone; type on a keyboard;
point to something; take a selfie; check time; rub two hands; nod head; shake head; wipe face; salute; put palms together;
cross hands in front; sneeze or cough; stagger; fall; touch head; touch chest; touch back; touch neck; nausea or vomiting;
use a fan; punch or slap other person; kick other person; push other person; pat on back of other person;
point finger at other person; hug other person; give something to other person; touch other person's pocket; shake hands;
walk towards each other; walk apart from each other;
put on headphone; take off headphone; shoot at the basket; bounce ball; tennis bat swing; juggle table tennis balls; hush;
flick hair; thumb up; thumb down; make ok sign; make victory sign; staple book; count money; cut nails; cut paper;
snap fingers; open bottle; sniff; squat down; toss a coin; fold paper; ball up paper; play magic cube; apply cream on face;
apply cream on hand back; put on bag; take off bag; put something into a bag; take something out of a bag; open a box;
move heavy objects; shake fist; throw up cap or hat; hands up; cross arms; arm circles; arm swings; run on the spot;
butt kicks; cross toe touch; side kick; yawn; stretch oneself; blow nose; hit other person with something;
wield knife towards other person; knock over other person; grab other person's stuff; shoot at other person with a gun;
step on foot; high-five; cheers and drink; carry something with other person; take a photo of other person;
follow other person; whisper in other person's ear; exchange things with other person; support somebody with hand;
finger-guessing game
""".replace("\n", " ").strip().split("; ")
)  # fmt: skip
